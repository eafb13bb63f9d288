#include "quant/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/metrics.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Element i belongs to chain i % kChains, on every instruction set.
constexpr int64_t kChains = 8;

double SumChains(const double* c) {
  return ((c[0] + c[4]) + (c[2] + c[6])) + ((c[1] + c[5]) + (c[3] + c[7]));
}

// sums: |W|^2, |W'|^2, |W - W'|^2, the largest |w - w'|.
void AddImpl(const float* w, const float* w_hat, int64_t n, double* sums) {
  const hn::CappedTag<double, kChains> d;
  const hn::Rebind<float, decltype(d)> df;
  const auto width = static_cast<int64_t>(hn::Lanes(d));
  const int64_t whole = n / kChains * kChains;
  HWY_ALIGN double sq[kChains], sq_hat[kChains], error[kChains], largest[kChains];
  for (int64_t chain = 0; chain < kChains; chain += width) {
    auto sum = hn::Zero(d), sum_hat = hn::Zero(d), sum_error = hn::Zero(d), most = hn::Zero(d);
    for (int64_t i = chain; i < whole; i += kChains) {
      const auto a = hn::PromoteTo(d, hn::LoadU(df, w + i));
      const auto b = hn::PromoteTo(d, hn::LoadU(df, w_hat + i));
      const auto e = hn::Sub(a, b);
      // Squares of floats are exact in double, so it is the same fused and not; those of e are not.
      sum = hn::MulAdd(a, a, sum);
      sum_hat = hn::MulAdd(b, b, sum_hat);
      sum_error = hn::Add(sum_error, hn::Mul(e, e));
      most = hn::Max(hn::Abs(e), most);
    }
    hn::Store(sum, d, sq + chain);
    hn::Store(sum_hat, d, sq_hat + chain);
    hn::Store(sum_error, d, error + chain);
    hn::Store(most, d, largest + chain);
  }
  for (int64_t i = whole; i < n; ++i) {
    const double a = w[i], b = w_hat[i], e = a - b;
    const int64_t chain = i - whole;
    sq[chain] += a * a;
    sq_hat[chain] += b * b;
    error[chain] += e * e;
    largest[chain] = std::max(largest[chain], std::abs(e));
  }
  sums[0] = SumChains(sq);
  sums[1] = SumChains(sq_hat);
  sums[2] = SumChains(error);
  sums[3] = *std::max_element(largest, largest + kChains);
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace pennyweight {

HWY_EXPORT(AddImpl);

void WeightError::Add(const float* w, const float* w_hat, int64_t n) {
  double sums[4];
  HWY_DYNAMIC_DISPATCH(AddImpl)(w, w_hat, n, sums);
  sum_sq += sums[0];
  sum_sq_hat += sums[1];
  sum_sq_error += sums[2];
  // |a - b|^2 = |a|^2 + |b|^2 - 2 <a, b>.
  sum_dot += 0.5 * (sums[0] + sums[1] - sums[2]);
  max_abs_error = std::max(max_abs_error, sums[3]);
  count += n;
}

void WeightError::Merge(const WeightError& other) {
  sum_sq += other.sum_sq;
  sum_sq_hat += other.sum_sq_hat;
  sum_dot += other.sum_dot;
  sum_sq_error += other.sum_sq_error;
  max_abs_error = std::max(max_abs_error, other.max_abs_error);
  count += other.count;
}

double WeightError::RelMse() const {
  if (sum_sq_error == 0) return 0;
  return sum_sq > 0 ? sum_sq_error / sum_sq : std::numeric_limits<double>::infinity();
}

double WeightError::SqnrDb() const {
  if (sum_sq_error == 0) return std::numeric_limits<double>::infinity();
  return -10.0 * std::log10(RelMse());
}

double WeightError::Cosine() const {
  if (sum_sq == 0 && sum_sq_hat == 0) return 1;
  if (sum_sq == 0 || sum_sq_hat == 0) return 0;
  return sum_dot / std::sqrt(sum_sq * sum_sq_hat);
}

}  // namespace pennyweight
#endif  // HWY_ONCE
