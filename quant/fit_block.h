// One block of weights with importance, as the searches of small floats and codebooks take it.
//
// Everything works on normalised weights: x = w / unit with unit a power of two and max |x| in
// [1, 2), so that squares neither underflow nor overflow and results do not depend on the magnitude
// of the weights.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/dtype.h"

namespace pennyweight {

// x, importance h and h * x of a block; n is a multiple of 8, padding has h = x = 0.
struct KernelBlock {
  const float* x;
  const float* h;
  const float* hx;
  int64_t n;
};

// One block's weights with importance, zero-padded to a multiple of 8.
class FitBlock {
 public:
  explicit FitBlock(int64_t n);

  // Takes n weights and their importance as NormalizeImportance does.
  void Load(std::span<const float> w, std::span<const float> importance);

  KernelBlock kernel() const { return {x_.data(), h_.data(), hx_.data(), padded_}; }
  float min() const { return min_; }
  float max() const { return max_; }
  float unit() const { return unit_; }
  // Mean importance before it was scaled to about one. Errors in normalised terms times
  // importance_mean() * unit()^2 are comparable between blocks.
  double importance_mean() const { return importance_mean_; }
  bool zero() const { return min_ == 0 && max_ == 0; }
  double sum_hxx() const { return sum_hxx_; }

 private:
  int64_t n_;
  int64_t padded_;
  std::vector<float> x_, h_, hx_;
  float min_ = 0, max_ = 0, unit_ = 1;
  double importance_mean_ = 1;
  double sum_hxx_ = 0;
};

// `value` of a normalised block as it comes back from storage in `dtype`, still normalised. Beyond
// the dtype's range it saturates: a stored scale is always finite.
float RoundStored(DType dtype, float unit, float value);
// The same without normalisation.
inline float RoundStored(DType dtype, float value) { return RoundStored(dtype, 1.0f, value); }

}  // namespace pennyweight
