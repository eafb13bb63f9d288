// Sums over the codes that a scale (and offset) choose, and the least-squares scale (and offset)
// for those codes: what the searches of all types share. One block per lane; x[n] and h[n] as in
// quant/lanes-inl.h, h one number per column.
#include "quant/lanes-inl.h"

#if defined(PENNYWEIGHT_QUANT_LANE_FIT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_LANE_FIT_INL_H_
#undef PENNYWEIGHT_QUANT_LANE_FIT_INL_H_
#else
#define PENNYWEIGHT_QUANT_LANE_FIT_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {

// value = scale * q, q integer in [lo, hi].
struct SymmetricSumsV {
  V xq;  // sum h x q
  V qq;  // sum h q^2; the best scale for the codes is xq / qq
};
HWY_INLINE SymmetricSumsV SumSymmetricV(const float* x, const float* h, int64_t n, V inverse, V lo,
                                        V hi) {
  SymmetricSumsV sums{hn::Zero(LaneTag()), hn::Zero(LaneTag())};
  for (int64_t i = 0; i < n; ++i) {
    const V xi = LoadCol(x, i);
    const V q = NearestV(ClampV(hn::Mul(xi, inverse), lo, hi));
    const V hq = hn::Mul(Splat(h[i]), q);
    sums.xq = hn::Add(sums.xq, hn::Mul(hq, xi));
    sums.qq = hn::Add(sums.qq, hn::Mul(hq, q));
  }
  return sums;
}

// Sum of h (x - scale q)^2 over the nearest codes of a scale; inverse = DivOrZero(1, scale).
HWY_INLINE V SymmetricErrorV(const float* x, const float* h, int64_t n, V scale, V inverse, V lo,
                             V hi) {
  V error = hn::Zero(LaneTag());
  for (int64_t i = 0; i < n; ++i) {
    const V xi = LoadCol(x, i);
    const V q = NearestV(ClampV(hn::Mul(xi, inverse), lo, hi));
    const V e = hn::Sub(xi, hn::Mul(scale, q));
    error = hn::Add(error, hn::Mul(hn::Mul(Splat(h[i]), e), e));
  }
  return error;
}

// value = scale * q + offset, q integer in [0, levels].
struct AffineSumsV {
  V q;   // sum h q
  V qq;  // sum h q^2
  V xq;  // sum h x q
};
// What is known beforehand spares operations; the sums are the same bits either way. kPlain: all
// h[i] are 1. Without kLow (kHigh) no x falls half a step or more below code 0 (above `levels`).
template <bool kPlain, bool kLow, bool kHigh>
HWY_INLINE AffineSumsV SumAffineIfV(const float* x, const float* h, int64_t n, V inverse, V offset,
                                    V levels) {
  AffineSumsV sums{hn::Zero(LaneTag()), hn::Zero(LaneTag()), hn::Zero(LaneTag())};
  const V zero = hn::Zero(LaneTag());
  for (int64_t i = 0; i < n; ++i) {
    const V xi = LoadCol(x, i);
    V q = hn::Mul(hn::Sub(xi, offset), inverse);
    if constexpr (kLow) q = hn::Max(q, zero);
    if constexpr (kHigh) q = hn::Min(q, levels);
    q = NearestV(q);
    V hq = q;
    if constexpr (!kPlain) hq = hn::Mul(Splat(h[i]), q);
    sums.q = hn::Add(sums.q, hq);
    sums.qq = hn::Add(sums.qq, hn::Mul(hq, q));
    sums.xq = hn::Add(sums.xq, hn::Mul(hq, xi));
  }
  return sums;
}
HWY_INLINE AffineSumsV SumAffineV(const float* x, const float* h, int64_t n, V inverse, V offset,
                                  V levels) {
  return SumAffineIfV<false, true, true>(x, h, n, inverse, offset, levels);
}

HWY_INLINE V AffineErrorV(const float* x, const float* h, int64_t n, V scale, V offset, V inverse,
                          V levels) {
  V error = hn::Zero(LaneTag());
  const V zero = hn::Zero(LaneTag());
  for (int64_t i = 0; i < n; ++i) {
    const V xi = LoadCol(x, i);
    const V q = NearestV(ClampV(hn::Mul(hn::Sub(xi, offset), inverse), zero, levels));
    const V e = hn::Sub(xi, hn::Add(hn::Mul(scale, q), offset));
    error = hn::Add(error, hn::Mul(hn::Mul(Splat(h[i]), e), e));
  }
  return error;
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
