// Min/max coding of whole rows where the type is so plain that turning rows into lanes would be
// most of the work: the same bytes as ScaleSearch::kMinMax of the type's grid (quant/grid.h).
#pragma once

#include <cstdint>

#include "lib/encoding.h"
#include "lib/tensor.h"

namespace pennyweight {

// Q4_0, Q8_0 and symmetric integers.
bool HasRowMinMax(const Encoding& encoding);

// Codes the finite weights w[out->cols] into row `row` of a tile whose encoding has row coding.
void EncodeRowMinMax(const float* w, int64_t row, EncodedTensor* out);

}  // namespace pennyweight
