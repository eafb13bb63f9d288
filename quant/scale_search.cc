#include "quant/scale_search.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>

#include "lib/checked.h"

namespace pennyweight {
namespace {

constexpr int kKept = 4;       // candidates that go on to the refits
constexpr int kMaxRefits = 8;  // codes settle after two or three

// The best few candidates, lowest error first; ties keep the earlier one.
template <class T>
class Shortlist {
 public:
  void Offer(double error, const T& value) {
    int at = count_;
    while (at > 0 && error < errors_[static_cast<size_t>(at - 1)]) --at;
    if (at >= kKept) return;
    count_ = std::min(count_ + 1, kKept);
    for (int i = count_ - 1; i > at; --i) {
      errors_[static_cast<size_t>(i)] = errors_[static_cast<size_t>(i - 1)];
      values_[static_cast<size_t>(i)] = values_[static_cast<size_t>(i - 1)];
    }
    errors_[static_cast<size_t>(at)] = error;
    values_[static_cast<size_t>(at)] = value;
  }
  std::span<const T> values() const { return {values_.data(), static_cast<size_t>(count_)}; }

 private:
  std::array<double, kKept> errors_{};
  std::array<T, kKept> values_{};
  int count_ = 0;
};

// Ratios of full range to absolute maximum that are worth trying: above 1 the largest weights are
// clipped, the less so the finer the codes. A step moves the outermost code by a quarter or so;
// refits close the gaps.
template <class Visit>
void ForEachRange(float levels, Visit visit) {
  float first = 0.9f, last = 1.12f, step = 1.0f + 1.0f / 256;
  if (levels < 12) {
    first = 0.72f, last = 2.6f, step = 1.0f + 0.25f / levels;
  } else if (levels < 40) {
    first = 0.85f, last = 1.6f, step = 1.0f + 0.2f / levels;
  }
  for (float ratio = first; ratio < last; ratio *= step) visit(ratio);
}

// A relative change of a stored value that lands on its neighbour: 0.7 of the coarsest spacing.
float NeighbourStep(DType dtype) {
  if (dtype == DType::kBF16) return 0.7f / 128;
  if (dtype == DType::kF16) return 0.7f / 1024;
  return 0;
}

}  // namespace

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
  sum_h_ = sum_hx_ = sum_hxx_ = 0;
  for (int64_t i = 0; i < n_; ++i) {
    const auto at = static_cast<size_t>(i);
    const float x = w[at] * inverse;
    const float h = h_[at];
    x_[at] = x;
    hx_[at] = h * x;
    min_ = i == 0 ? x : std::min(min_, x);
    max_ = i == 0 ? x : std::max(max_, x);
    sum_h_ += h;
    sum_hx_ += static_cast<double>(hx_[at]);
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

SymmetricSums SumSymmetric(const FitBlock& block, float lo, float hi, float inverse) {
  const KernelSums sums = SumCodes(block.kernel(), lo, hi, inverse, 0.0f);
  return {sums.xq, sums.qq};
}

double SymmetricError(const FitBlock& block, float lo, float hi, float scale) {
  if (scale == 0) return block.sum_hxx();
  return SumErrors(block.kernel(), lo, hi, 1.0f / scale, scale, 0.0f);
}

AffineSums SumAffine(const FitBlock& block, float levels, float inverse, float offset) {
  const KernelSums sums = SumCodes(block.kernel(), 0.0f, levels, inverse, offset);
  return {sums.q, sums.qq, sums.xq};
}

double AffineError(const FitBlock& block, float levels, float scale, float offset) {
  const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
  return SumErrors(block.kernel(), 0.0f, levels, inverse, scale, offset);
}

namespace {

// Alternates nearest codes and the least-squares scale until the scale stays.
float RefitSymmetric(const FitBlock& block, float lo, float hi, float scale) {
  for (int i = 0; i < kMaxRefits && scale != 0; ++i) {
    const SymmetricSums sums = SumSymmetric(block, lo, hi, 1.0f / scale);
    if (!(sums.b > 0)) return 0;
    const float next = sums.a / sums.b;
    if (next == scale) break;
    scale = next;
  }
  return scale;
}

// Where the code range is lopsided the sign of the scale says which end gets the extra code.
void ShortlistSymmetric(const FitBlock& block, float lo, float hi, Shortlist<float>* best) {
  const bool both_signs = lo != -hi;
  const float amax = std::max(-block.min(), block.max());
  const float levels = std::max(-lo, hi);
  ForEachRange(levels, [&](float ratio) {
    const float inverse = levels * ratio / amax;
    for (const float s : {1.0f, -1.0f}) {
      if (!both_signs && s < 0) continue;
      const SymmetricSums sums = SumSymmetric(block, lo, hi, s * inverse);
      if (!(sums.b > 0)) continue;
      best->Offer(-static_cast<double>(sums.a) * sums.a / sums.b, sums.a / sums.b);
    }
  });
}

// Improves a stored scale by walking to its neighbours in the dtype while the error falls.
void WalkSymmetric(const FitBlock& block, float lo, float hi, DType dtype, SymmetricFit* fit) {
  const float step = NeighbourStep(dtype);
  if (step == 0) return;
  for (const float direction : {1.0f + step, 1.0f - step}) {
    for (int i = 0; i < 4; ++i) {
      const float scale = RoundStored(dtype, block.unit(), fit->scale * direction);
      const double error = SymmetricError(block, lo, hi, scale);
      if (!(error < fit->error)) break;
      *fit = {scale, error};
    }
  }
}

// Best stored scale with codes in [lo, hi] among refits of the shortlist and `start`.
SymmetricFit FinishSymmetric(const FitBlock& block, float lo, float hi, DType dtype,
                             std::span<const float> scales, float start) {
  SymmetricFit best{start, SymmetricError(block, lo, hi, start)};
  for (const float candidate : scales) {
    const float refit = RefitSymmetric(block, lo, hi, candidate);
    const float scale = RoundStored(dtype, block.unit(), refit);
    const double error = SymmetricError(block, lo, hi, scale);
    if (error < best.error) best = {scale, error};
  }
  WalkSymmetric(block, lo, hi, dtype, &best);
  return best;
}

// The least-squares scale and offset for given codes.
AffineFit SolveAffine(const FitBlock& block, const AffineSums& s, bool offset_below_zero) {
  const double det = block.sum_h() * s.qq - static_cast<double>(s.q) * s.q;
  AffineFit fit;
  if (det > 1e-12 * block.sum_h() * s.qq && s.qq > 0) {
    const double scale = (block.sum_h() * s.xq - block.sum_hx() * s.q) / det;
    const double offset = (s.qq * block.sum_hx() - static_cast<double>(s.q) * s.xq) / det;
    fit = {static_cast<float>(scale), static_cast<float>(offset),
           block.sum_hxx() - scale * s.xq - offset * block.sum_hx()};
  } else {  // one code for all weights: only their mean can be told
    const double offset = block.sum_hx() / block.sum_h();
    fit = {0, static_cast<float>(offset), block.sum_hxx() - offset * block.sum_hx()};
  }
  if (offset_below_zero && fit.offset > 0) {
    const double scale = s.qq > 0 ? static_cast<double>(s.xq) / s.qq : 0;
    fit = {static_cast<float>(scale), 0, block.sum_hxx() - scale * s.xq};
  }
  return fit;
}

AffineFit RefitAffine(const FitBlock& block, float levels, bool offset_below_zero, AffineFit fit) {
  for (int i = 0; i < kMaxRefits && fit.scale != 0; ++i) {
    const AffineSums sums = SumAffine(block, levels, 1.0f / fit.scale, fit.offset);
    const AffineFit next = SolveAffine(block, sums, offset_below_zero);
    if (next.scale == fit.scale && next.offset == fit.offset) break;
    fit = next;
  }
  return fit;
}

// Ends of the range moved in (and slightly out) as fractions of the range.
constexpr float kShrink[] = {-0.04f, 0.0f, 0.04f, 0.08f, 0.13f, 0.19f, 0.26f, 0.35f};
constexpr float kShrinkFine[] = {-0.004f, 0.0f, 0.004f, 0.01f, 0.02f, 0.04f};

std::span<const float> ShrinkSteps(float levels) {
  if (levels > 40) return kShrinkFine;
  return kShrink;
}

void ShortlistAffine(const FitBlock& block, float levels, bool offset_below_zero,
                     Shortlist<AffineFit>* best) {
  const float low = offset_below_zero ? std::min(block.min(), 0.0f) : block.min();
  const float range = block.max() - low;
  if (!(range > 0)) return;
  for (const float a : ShrinkSteps(levels)) {
    for (const float b : ShrinkSteps(levels)) {
      float from = low + a * range;
      const float to = block.max() - b * range;
      if (offset_below_zero) from = std::min(from, 0.0f);
      if (!(to > from)) continue;
      const AffineSums sums = SumAffine(block, levels, levels / (to - from), from);
      const AffineFit fit = SolveAffine(block, sums, offset_below_zero);
      best->Offer(fit.error, fit);
    }
  }
}

}  // namespace

SymmetricFit SearchSymmetric(const FitBlock& block, float lo, float hi) {
  if (block.zero()) return {};
  Shortlist<float> shortlist;
  ShortlistSymmetric(block, lo, hi, &shortlist);
  SymmetricFit best{0, block.sum_hxx()};
  for (const float candidate : shortlist.values()) {
    const float scale = RefitSymmetric(block, lo, hi, candidate);
    const double error = SymmetricError(block, lo, hi, scale);
    if (error < best.error) best = {scale, error};
  }
  return best;
}

SymmetricFit SearchSymmetricStored(const FitBlock& block, float lo, float hi, DType dtype,
                                   float start) {
  if (block.zero()) return {};
  Shortlist<float> shortlist;
  ShortlistSymmetric(block, lo, hi, &shortlist);
  return FinishSymmetric(block, lo, hi, dtype, shortlist.values(), start);
}

AffineFit SearchAffine(const FitBlock& block, float levels, bool offset_below_zero) {
  if (block.zero()) return {};
  Shortlist<AffineFit> shortlist;
  ShortlistAffine(block, levels, offset_below_zero, &shortlist);
  // What remains when all weights are equal, or none rises above a zero offset.
  AffineFit best{0, static_cast<float>(block.sum_hx() / block.sum_h()), 0};
  if (offset_below_zero) best.offset = std::min(best.offset, 0.0f);
  best.error = AffineError(block, levels, best.scale, best.offset);
  for (const AffineFit& candidate : shortlist.values()) {
    AffineFit fit = RefitAffine(block, levels, offset_below_zero, candidate);
    fit.error = AffineError(block, levels, fit.scale, fit.offset);
    if (fit.error < best.error) best = fit;
  }
  return best;
}

AffineFit SearchAffineStored(const FitBlock& block, float levels, DType dtype,
                             const AffineFit& start) {
  if (block.zero()) return {};
  Shortlist<AffineFit> shortlist;
  ShortlistAffine(block, levels, false, &shortlist);
  AffineFit best = start;
  best.error = AffineError(block, levels, start.scale, start.offset);
  const auto offer = [&](float scale, float offset) {
    AffineFit fit{RoundStored(dtype, block.unit(), scale), RoundStored(dtype, block.unit(), offset),
                  0};
    fit.error = AffineError(block, levels, fit.scale, fit.offset);
    if (fit.error < best.error) best = fit;
  };
  for (const AffineFit& candidate : shortlist.values()) {
    const AffineFit fit = RefitAffine(block, levels, false, candidate);
    offer(fit.scale, fit.offset);
    // The offset that is best for the scale as stored.
    const float scale = RoundStored(dtype, block.unit(), fit.scale);
    if (scale == 0) continue;
    const AffineSums sums = SumAffine(block, levels, 1.0f / scale, fit.offset);
    offer(scale, static_cast<float>((block.sum_hx() - static_cast<double>(scale) * sums.q) /
                                    block.sum_h()));
  }
  const float step = NeighbourStep(dtype);
  for (const float s : {1.0f + step, 1.0f - step}) offer(best.scale * s, best.offset);
  for (const float s : {1.0f + step, 1.0f - step}) offer(best.scale, best.offset * s);
  return best;
}

ZeroPointFit SearchZeroPointStored(const FitBlock& block, int lo, int hi, DType dtype,
                                   const ZeroPointFit& start) {
  if (block.zero()) return {};
  struct Candidate {
    float scale = 0;
    int zero = 0;
  };
  Shortlist<Candidate> shortlist;
  const float low = std::min(block.min(), 0.0f);
  const float range = std::max(block.max(), 0.0f) - low;
  const auto levels = static_cast<float>(hi - lo);
  for (const float a : ShrinkSteps(levels)) {
    for (const float b : ShrinkSteps(levels)) {
      const float scale = range * (1 - a - b) / levels;
      const float ideal = static_cast<float>(lo) - (low + a * range) / scale;
      const int zero = std::clamp(static_cast<int>(std::lrint(ideal)), lo, hi);
      const SymmetricSums sums = SumSymmetric(block, static_cast<float>(lo - zero),
                                              static_cast<float>(hi - zero), 1.0f / scale);
      if (!(sums.b > 0)) continue;
      shortlist.Offer(-static_cast<double>(sums.a) * sums.a / sums.b, {sums.a / sums.b, zero});
    }
  }
  const auto bound = [&](int zero) {
    return std::pair<float, float>(static_cast<float>(lo - zero), static_cast<float>(hi - zero));
  };
  ZeroPointFit best = start;
  best.error =
      SymmetricError(block, bound(start.zero).first, bound(start.zero).second, start.scale);
  for (const Candidate& candidate : shortlist.values()) {
    for (int zero = std::max(lo, candidate.zero - 1); zero <= std::min(hi, candidate.zero + 1);
         ++zero) {
      const auto [from, to] = bound(zero);
      const float start_scale = zero == start.zero ? start.scale : 0.0f;
      const SymmetricFit fit =
          FinishSymmetric(block, from, to, dtype, {&candidate.scale, 1}, start_scale);
      if (fit.error < best.error) best = {fit.scale, zero, fit.error};
    }
  }
  return best;
}

}  // namespace pennyweight
