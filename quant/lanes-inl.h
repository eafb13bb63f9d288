// For kernels on lane buffers (quant/lanes.h): included once per instruction set, inside files that
// use Highway's foreach_target. What is written with these functions gives the same bits on every
// instruction set: each lane is a row of its own, no operation is fused or approximate, and there
// are no sums across lanes.
#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "lib/dtype.h"
#include "quant/lanes.h"

#if defined(PENNYWEIGHT_QUANT_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_LANES_INL_H_
#undef PENNYWEIGHT_QUANT_LANES_INL_H_
#else
#define PENNYWEIGHT_QUANT_LANES_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// As many of the kLanes rows as the vectors of this instruction set hold.
using LaneTag = hn::CappedTag<float, kLanes>;
using V = hn::Vec<LaneTag>;
using VMask = hn::Mask<LaneTag>;

HWY_INLINE int64_t VWidth() { return static_cast<int64_t>(hn::Lanes(LaneTag())); }

// Column i of a lane buffer; `p` already points at the first lane of this vector.
HWY_INLINE V LoadCol(const float* p, int64_t i) { return hn::Load(LaneTag(), p + i * kLanes); }
HWY_INLINE void StoreCol(V v, float* p, int64_t i) { hn::Store(v, LaneTag(), p + i * kLanes); }
HWY_INLINE V Splat(float v) { return hn::Set(LaneTag(), v); }

// Nearest integer, ties to even, of |v| < 2^22.
HWY_INLINE V NearestV(V v) {
  const V magic = Splat(12582912.0f);  // 1.5 * 2^23
  return hn::Sub(hn::Add(v, magic), magic);
}
HWY_INLINE V ClampV(V v, V lo, V hi) { return hn::Min(hn::Max(v, lo), hi); }

// a / b where b is not zero, else 0.
HWY_INLINE V DivOrZero(V a, V b) {
  const V zero = hn::Zero(LaneTag());
  const VMask none = hn::Eq(b, zero);
  return hn::IfThenElse(none, zero, hn::Div(a, hn::IfThenElse(none, Splat(1.0f), b)));
}

// Through fp16 and back: to nearest even; beyond the range, to the largest finite value.
HWY_INLINE V RoundToF16(V v) {
  const LaneTag d;
  const hn::RebindToUnsigned<LaneTag> du;
  const V magnitude = hn::Min(hn::Abs(v), Splat(65504.0f));
  // Normal fp16: the mantissa to 10 bits.
  const auto bits = hn::BitCast(du, magnitude);
  const auto odd = hn::And(hn::ShiftRight<13>(bits), hn::Set(du, 1));
  const auto up = hn::Add(bits, hn::Add(odd, hn::Set(du, 0xFFF)));
  const V normal = hn::Min(hn::BitCast(d, hn::AndNot(hn::Set(du, 0x1FFF), up)), Splat(65504.0f));
  // Below 2^-14: multiples of 2^-24.
  const V step = Splat(0.75f);  // 1.5 * 2^(23 - 24)
  const V small = hn::Sub(hn::Add(magnitude, step), step);
  const VMask is_small = hn::Lt(magnitude, Splat(0x1p-14f));
  return hn::CopySign(hn::IfThenElse(is_small, small, normal), v);
}

HWY_INLINE V RoundToBF16(V v) {
  const LaneTag d;
  const hn::RebindToUnsigned<LaneTag> du;
  const V limit = Splat(0x1.FEp127f);
  const auto bits = hn::BitCast(du, hn::Min(hn::Abs(v), limit));
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto up = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFF)));
  return hn::CopySign(hn::BitCast(d, hn::AndNot(hn::Set(du, 0xFFFF), up)), v);
}

// As a scale is stored in F16, BF16 or F32: always finite.
HWY_INLINE V RoundToDType(DType dtype, V v) {
  if (dtype == DType::kF16) return RoundToF16(v);
  if (dtype == DType::kBF16) return RoundToBF16(v);
  return v;
}

// The largest magnitude of each lane over n columns.
HWY_INLINE V MaxMagnitude(const float* w, int64_t n) {
  V top = hn::Zero(LaneTag());
  for (int64_t i = 0; i < n; ++i) top = hn::Max(top, hn::Abs(LoadCol(w, i)));
  return top;
}

// The power of two that brings a magnitude into [1, 2), for magnitudes in 2^+-100; beyond that its
// end; 1 for zero. Weights times this neither underflow nor overflow when they are squared.
HWY_INLINE V Normalizer(V magnitude) {
  const LaneTag d;
  const hn::RebindToUnsigned<LaneTag> du;
  const V inside = ClampV(magnitude, Splat(0x1p-100f), Splat(0x1p100f));
  const auto exponent = hn::And(hn::BitCast(du, inside), hn::Set(du, 0x7F800000u));
  const V inverse = hn::BitCast(d, hn::Sub(hn::Set(du, 0x7F000000u), exponent));  // 2^-e
  return hn::IfThenElse(hn::Eq(magnitude, hn::Zero(d)), Splat(1.0f), inverse);
}

// x[n] = w[n] * factor, all lanes of this vector.
HWY_INLINE void ScaleCols(const float* w, int64_t n, V factor, float* x) {
  for (int64_t i = 0; i < n; ++i) StoreCol(hn::Mul(LoadCol(w, i), factor), x, i);
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
