// What every method asks of its input, and makes of its importance.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/result.h"

namespace pennyweight {

// kNonFinite, naming row and column, when w[cols] (row `row`) holds a NaN or an infinity.
Status CheckFiniteRow(const float* w, int64_t cols, int64_t row);

// NormalizeImportance of each `width` columns of importance[cols]; all ones when it is empty.
std::vector<float> BlockImportance(std::span<const float> importance, int64_t cols, int64_t width);

}  // namespace pennyweight
