// The encoder of bitsandbytes' 4-bit codebooks (nf4, fp4), plain absmax: the counterpart of
// DecodeCodebookRows. minmax and rtn find the absmax as encode_scaled.h says.
#pragma once

#include <cstdint>
#include <span>

#include "lib/context.h"
#include "lib/encoding.h"
#include "lib/result.h"
#include "lib/tensor.h"
#include "quant/grid.h"

namespace pennyweight {

// Whether EncodeCodebook writes the encoding: not nested.
bool CanEncodeCodebook(const Encoding& encoding);

// Rows w[rows, cols], which begin with a block of the tensor: blocks are consecutive values, and
// may cross rows. `importance` per column, or empty. Errors: kNonFinite, naming row and column.
// Precondition: CanEncodeCodebook.
Status EncodeCodebook(const Context& context, const Encoding& encoding, const float* w,
                      int64_t rows, int64_t cols, std::span<const float> importance,
                      ScaleSearch search, EncodedTensor* out);

}  // namespace pennyweight
