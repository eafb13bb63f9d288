// Numbers out of encoded bytes, for every encoding this program can decode. The formulas are those
// of the formats' reference decoders, evaluated in fp32 in the same order.
#pragma once

#include <cstdint>

#include "lib/encoding.h"
#include "lib/result.h"
#include "lib/tensor.h"
#include "lib/tensor_source.h"

namespace pennyweight {

// True when DecodeRows takes it: F32 F16 BF16, integers, small floats with scales, codebooks, and
// all block types.
bool CanDecode(const Encoding& encoding);

// Decodes rows [row, row + count) of a tile to out[count, cols]. Precondition: CanDecode.
void DecodeRows(const EncodedTensor& tile, int64_t row, int64_t count, float* out);

// Reads and decodes rows of a source's tensor into out[count, cols]. Errors: those of ReadRows, and
// kUnsupported when the encoding cannot be decoded. Thread-safe.
Status ReadFloatRows(const TensorSource& source, size_t index, int64_t row, int64_t count,
                     float* out);

}  // namespace pennyweight
