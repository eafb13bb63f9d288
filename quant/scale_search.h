// Searches for the scale (and offset) of one block of weights that all types share: candidates,
// then closed-form weighted least-squares refits for the codes they choose, judged by the true
// weighted error of the scale as it will be stored.
//
// Everything here works on normalised weights: x = w / unit with unit a power of two and
// max |x| in [1, 2), so that squares neither underflow nor overflow and results do not depend on
// the magnitude of the weights.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/dtype.h"
#include "quant/lanes.h"
#include "quant/scale_kernels.h"

namespace pennyweight {

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
  double sum_h() const { return sum_h_; }
  double sum_hx() const { return sum_hx_; }
  double sum_hxx() const { return sum_hxx_; }

 private:
  int64_t n_;
  int64_t padded_;
  std::vector<float> x_, h_, hx_;
  float min_ = 0, max_ = 0, unit_ = 1;
  double importance_mean_ = 1;
  double sum_h_ = 0, sum_hx_ = 0, sum_hxx_ = 0;
};

// `value` of a normalised block as it comes back from storage in `dtype`, still normalised. Beyond
// the dtype's range it saturates: a stored scale is always finite.
float RoundStored(DType dtype, float unit, float value);
// The same without normalisation.
inline float RoundStored(DType dtype, float value) { return RoundStored(dtype, 1.0f, value); }

// Nearest integer (ties to even) of |v| < 2^22.
inline float NearestInteger(float v) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return (v + kMagic) - kMagic;
}
inline float ClampTo(float v, float lo, float hi) {
  v = v < lo ? lo : v;
  return v > hi ? hi : v;
}

// value = scale * q with integer q in [lo, hi].
struct SymmetricFit {
  float scale = 0;
  double error = 0;  // sum h (x - scale q)^2, q nearest
};

// Weighted error of a scale under nearest codes; a zero scale decodes to zeros.
double SymmetricError(const FitBlock& block, float lo, float hi, float scale);

// Least-squares scale of either sign, not rounded for storage. For two-level types.
SymmetricFit SearchSymmetric(const FitBlock& block, float lo, float hi);
// The same with the scale rounded as stored; `start` (as stored) is tried as well.
SymmetricFit SearchSymmetricStored(const FitBlock& block, float lo, float hi, DType dtype,
                                   float start);

// Sums over the codes that a scale chooses; `a` and `b` give the best scale a / b for them.
struct SymmetricSums {
  float a;  // sum h x q
  float b;  // sum h q^2
};
SymmetricSums SumSymmetric(const FitBlock& block, float lo, float hi, float inverse);

// value = scale * q + offset with integer q in [0, levels].
struct AffineFit {
  float scale = 0;
  float offset = 0;
  double error = 0;
};

// Sums over the codes that (scale, offset) choose.
struct AffineSums {
  float q;   // sum h q
  float qq;  // sum h q^2
  float xq;  // sum h x q
};
AffineSums SumAffine(const FitBlock& block, float levels, float inverse, float offset);

double AffineError(const FitBlock& block, float levels, float scale, float offset);

// Least-squares scale and offset, not rounded for storage; with `offset_below_zero` offset <= 0.
AffineFit SearchAffine(const FitBlock& block, float levels, bool offset_below_zero);
// The same with both rounded as stored; `start` (as stored) is tried as well.
AffineFit SearchAffineStored(const FitBlock& block, float levels, DType dtype,
                             const AffineFit& start);

// value = scale * (q - zero) with integers q and zero in [lo, hi].
struct ZeroPointFit {
  float scale = 0;
  int zero = 0;
  double error = 0;
};
ZeroPointFit SearchZeroPointStored(const FitBlock& block, int lo, int hi, DType dtype,
                                   const ZeroPointFit& start);

}  // namespace pennyweight
