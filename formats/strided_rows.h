// Reads rows of a tensor whose elements do not follow each other in the file.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/file.h"
#include "lib/result.h"
#include "lib/tensor.h"

namespace pennyweight {

// Whether elements of this shape and these strides (both in elements) follow each other without
// gap, the last dimension fastest. True of empty tensors.
bool IsContiguous(const Shape& shape, const Shape& strides);

// Reads rows [row, row + count) of a tensor into `out`, [count, cols] elements of `element_bytes`,
// row-major. `origin` is the offset of its first element in the file, in bytes; a row is the last
// dimension. Memory: one window of at most 1 MiB. Thread-safe. Errors: kIo, kTruncated.
// Precondition: every element is inside of the file, the rows are inside of the tensor.
Status ReadStridedRows(const ReadFile& file, uint64_t origin, uint64_t element_bytes,
                       const Shape& shape, const Shape& strides, int64_t row, int64_t count,
                       uint8_t* out);

}  // namespace pennyweight
