// What every method asks of its input.
#pragma once

#include <cstdint>

#include "lib/result.h"

namespace pennyweight {

// kNonFinite, naming row and column, when w[cols] (row `row`) holds a NaN or an infinity.
Status CheckFiniteRow(const float* w, int64_t cols, int64_t row);

}  // namespace pennyweight
