#include "quant/fit_block.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "lib/checked.h"
#include "quant/lanes.h"

namespace pennyweight {

FitBlock::FitBlock(int64_t n)
    : n_(n),
      padded_(CeilDiv(n, 8) * 8),
      x_(static_cast<size_t>(padded_)),
      h_(static_cast<size_t>(padded_)),
      hx_(static_cast<size_t>(padded_)) {}

void FitBlock::Load(std::span<const float> w, std::span<const float> importance) {
  float amax = 0;
  for (int64_t i = 0; i < n_; ++i) amax = std::max(amax, std::abs(w[static_cast<size_t>(i)]));
  // Kept inside 2^+-100 so that unit and its inverse are both normal numbers.
  const int exponent = amax > 0 ? std::clamp(std::ilogb(amax), -100, 100) : 0;
  unit_ = std::ldexp(1.0f, exponent);
  const float inverse = std::ldexp(1.0f, -exponent);

  importance_mean_ = NormalizeImportance(importance, n_, h_.data());
  min_ = max_ = 0;
  sum_hxx_ = 0;
  for (int64_t i = 0; i < n_; ++i) {
    const auto at = static_cast<size_t>(i);
    const float x = w[at] * inverse;
    const float h = h_[at];
    x_[at] = x;
    hx_[at] = h * x;
    min_ = i == 0 ? x : std::min(min_, x);
    max_ = i == 0 ? x : std::max(max_, x);
    sum_hxx_ += static_cast<double>(hx_[at]) * x;
  }
}

float RoundStored(DType dtype, float unit, float value) {
  float limit = std::numeric_limits<float>::max();
  if (dtype == DType::kF16) limit = 65504.0f;
  if (dtype == DType::kBF16) limit = 0x1.FEp127f;
  const float stored = RoundThrough(dtype, std::clamp(value * unit, -limit, limit));
  return stored / unit;
}

}  // namespace pennyweight
