// Encoders of small floats with scales: fp8_e4m3 and fp8_e5m2 with scales per tensor, row or block,
// NVFP4 and MXFP4. The counterparts of the decoders in codec_scaled.h and codec_blocks.h.
//
// minmax: the largest magnitude of a block becomes the largest element (MXFP4: an exponent, as the
// OCP MX specification 1.0 has it in section 6.3). rtn: the scale, as stored, of the least
// importance-weighted squared error among candidates around that one and their least-squares refit.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "lib/context.h"
#include "lib/encoding.h"
#include "lib/result.h"
#include "lib/tensor.h"
#include "quant/grid.h"

namespace pennyweight {

// Whether EncodeScaled writes the encoding in rows of `cols`: the above, fp8 scales in F32, F16 or
// BF16.
bool CanEncodeScaled(const Encoding& encoding, int64_t cols);

// Rows that share scales: a tile has to begin at a multiple of them. 1 where one number is shared
// by the tensor.
int64_t SharedRows(const Encoding& encoding);

// Whether a number belongs to the tensor as a whole: the scale of fp8 per tensor, the divisor of
// NVFP4's scales.
bool HasTensorScale(const Encoding& encoding);

// Hands over all rows of a tensor of `cols` columns, in order, some at a time. Called once or
// twice.
using RowVisitor = std::function<Status(const float* w, int64_t rows)>;
using EachTile = std::function<Status(const RowVisitor& visit)>;

// That number. Errors: kNonFinite, and those of `each_tile`. Precondition: HasTensorScale.
Result<float> FindTensorScale(const Context& context, const Encoding& encoding, int64_t cols,
                              std::span<const float> importance, ScaleSearch search,
                              const EachTile& each_tile);

// Rows w[rows, cols] to the elements nearest under the scales that `search` finds; `importance` per
// column, or empty. `tensor_scale` is FindTensorScale's, for encodings that have one.
// Errors: kNonFinite, naming row and column. Precondition: CanEncodeScaled.
Status EncodeScaled(const Context& context, const Encoding& encoding, float tensor_scale,
                    const float* w, int64_t rows, int64_t cols, std::span<const float> importance,
                    ScaleSearch search, EncodedTensor* out);

}  // namespace pennyweight
