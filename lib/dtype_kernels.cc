#include "lib/dtype_kernels.h"

#include <cstring>

#include "lib/dtype.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lib/dtype_kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Words = hn::RebindToSigned<Floats>;
using W = hn::Vec<Words>;

HWY_INLINE W Word(int32_t bits) { return hn::Set(Words(), bits); }

// The arithmetic of lib/dtype.cc.
HWY_INLINE W NarrowF16(W bits) {
  const Words d;
  const W sign = hn::And(hn::ShiftRight<16>(bits), Word(0x8000));
  const W magnitude = hn::And(bits, Word(0x7FFFFFFF));
  const auto sum = hn::Add(hn::BitCast(Floats(), magnitude), hn::Set(Floats(), 0.5f));
  const W subnormal = hn::Sub(hn::BitCast(d, sum), Word(0x3F000000));
  const W shifted = hn::ShiftRight<13>(magnitude);
  const W up = hn::Add(hn::And(shifted, Word(1)), Word(0xFFF - (112 << 23)));
  const W normal = hn::ShiftRight<13>(hn::Add(magnitude, up));
  const W nan = hn::Or(hn::And(shifted, Word(0x3FF)), Word(0x7E00));
  W number = hn::IfThenElse(hn::Lt(magnitude, Word(0x38800000)), subnormal, normal);
  number = hn::IfThenElse(hn::Gt(magnitude, Word(0x477FFFFF)), Word(0x7C00), number);
  return hn::Or(hn::IfThenElse(hn::Gt(magnitude, Word(0x7F800000)), nan, number), sign);
}

HWY_INLINE W NarrowBF16(W bits) {
  const W odd = hn::And(hn::ShiftRight<16>(bits), Word(1));
  const W rounded = hn::Add(bits, hn::Add(odd, Word(0x7FFF)));
  const W nan = hn::Or(bits, Word(0x400000));
  const W magnitude = hn::And(bits, Word(0x7FFFFFFF));
  const W chosen = hn::IfThenElse(hn::Gt(magnitude, Word(0x7F800000)), nan, rounded);
  return hn::And(hn::ShiftRight<16>(chosen), Word(0xFFFF));
}

// As many as fill whole vectors; returns that number.
template <class Narrow>
HWY_INLINE size_t Cast(const float* from, void* to, size_t count, const Narrow& narrow) {
  const hn::Rebind<uint16_t, Floats> d16;
  const size_t width = hn::Lanes(Floats());
  auto* out = static_cast<uint8_t*>(to);
  size_t i = 0;
  for (; i + width <= count; i += width) {
    const W bits = hn::BitCast(Words(), hn::LoadU(Floats(), from + i));
    HWY_ALIGN uint16_t halves[HWY_MAX_BYTES / 4];
    hn::Store(hn::DemoteTo(d16, narrow(bits)), d16, halves);
    std::memcpy(out + 2 * i, halves, 2 * width);
  }
  return i;
}

size_t CastToF16Impl(const float* from, void* to, size_t count) {
  return Cast(from, to, count, [](W bits) { return NarrowF16(bits); });
}
size_t CastToBF16Impl(const float* from, void* to, size_t count) {
  return Cast(from, to, count, [](W bits) { return NarrowBF16(bits); });
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace pennyweight {

HWY_EXPORT(CastToF16Impl);
HWY_EXPORT(CastToBF16Impl);

void CastToF16(const float* from, void* to, size_t count) {
  for (size_t i = HWY_DYNAMIC_DISPATCH(CastToF16Impl)(from, to, count); i < count; ++i) {
    const uint16_t half = F32ToF16(from[i]);
    std::memcpy(static_cast<uint8_t*>(to) + 2 * i, &half, 2);
  }
}

void CastToBF16(const float* from, void* to, size_t count) {
  for (size_t i = HWY_DYNAMIC_DISPATCH(CastToBF16Impl)(from, to, count); i < count; ++i) {
    const uint16_t half = F32ToBF16(from[i]);
    std::memcpy(static_cast<uint8_t*>(to) + 2 * i, &half, 2);
  }
}

}  // namespace pennyweight
#endif  // HWY_ONCE
