#include "lib/dtype_kernels.h"

#include <cstdint>
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

using Words = hn::ScalableTag<uint32_t>;
using Halves = hn::Rebind<uint16_t, Words>;
using HalfBytes = hn::Repartition<uint8_t, Halves>;
using Floats = hn::RebindToFloat<Words>;

// The instruction set converts F16 itself, denormals at full speed, NaN to quiet NaN.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
#define PENNYWEIGHT_NATIVE_F16 1
#else
#define PENNYWEIGHT_NATIVE_F16 0
#endif

#if PENNYWEIGHT_NATIVE_F16
HWY_INLINE hn::Vec<Words> Widen(hn::Vec<Halves> h) {
  const hn::Rebind<hwy::float16_t, Words> d16;
  return hn::BitCast(Words(), hn::PromoteTo(Floats(), hn::BitCast(d16, h)));
}

HWY_INLINE hn::Vec<Halves> NarrowF16(hn::Vec<Words> bits) {
  const hn::Rebind<hwy::float16_t, Words> d16;
  return hn::BitCast(Halves(), hn::DemoteTo(d16, hn::BitCast(Floats(), bits)));
}
#else
HWY_INLINE hn::Vec<Words> Choose(hn::Mask<Words> condition, hn::Vec<Words> yes, hn::Vec<Words> no) {
  return hn::IfThenElse(condition, yes, no);
}

// a > b of words without a sign bit.
HWY_INLINE hn::Mask<Words> Above(hn::Vec<Words> a, uint32_t b) {
  const hn::RebindToSigned<Words> di;
  return hn::RebindMask(Words(), hn::Gt(hn::BitCast(di, a), hn::Set(di, static_cast<int32_t>(b))));
}

// As WidenF16 and NarrowF16 of lib/dtype.cc, which say why.
HWY_INLINE hn::Vec<Words> Widen(hn::Vec<Halves> half) {
  const Words d;
  const hn::Vec<Words> h = hn::PromoteTo(d, half);
  const auto sign = hn::ShiftLeft<16>(hn::And(h, hn::Set(d, 0x8000u)));
  const auto magnitude = hn::And(h, hn::Set(d, 0x7fffu));
  const auto shifted = hn::BitCast(Floats(), hn::Or(magnitude, hn::Set(d, 0x3f000000u)));
  const auto subnormal = hn::BitCast(d, hn::Sub(shifted, hn::Set(Floats(), 0.5f)));
  const auto mantissa = hn::ShiftLeft<13>(magnitude);
  const auto normal = hn::Add(mantissa, hn::Set(d, 112u << 23));
  const auto special = hn::Add(mantissa, hn::Set(d, 224u << 23));
  auto value = Choose(Above(magnitude, 0x03ffu), normal, subnormal);
  value = Choose(Above(magnitude, 0x7bffu), special, value);
  const auto quiet = hn::Or(special, hn::Set(d, 0x00400000u));
  return hn::Or(Choose(Above(magnitude, 0x7c00u), quiet, value), sign);
}

HWY_INLINE hn::Vec<Halves> NarrowF16(hn::Vec<Words> bits) {
  const Words d;
  const auto sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 0x8000u));
  const auto magnitude = hn::And(bits, hn::Set(d, 0x7fffffffu));
  const auto sum = hn::Add(hn::BitCast(Floats(), magnitude), hn::Set(Floats(), 0.5f));
  const auto subnormal = hn::Sub(hn::BitCast(d, sum), hn::Set(d, 0x3f000000u));
  const auto last = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(d, 1u));
  const auto rebiased = hn::Add(hn::Sub(magnitude, hn::Set(d, 112u << 23)), hn::Set(d, 0xfffu));
  const auto normal = hn::ShiftRight<13>(hn::Add(rebiased, last));
  const auto payload = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(d, 0x3ffu));
  const auto nan = hn::Or(payload, hn::Set(d, 0x7e00u));
  auto value = Choose(Above(magnitude, 0x387fffffu), normal, subnormal);
  value = Choose(Above(magnitude, 0x477fffffu), hn::Set(d, 0x7c00u), value);
  value = Choose(Above(magnitude, 0x7f800000u), nan, value);
  return hn::TruncateTo(Halves(), hn::Or(value, sign));
}
#endif

HWY_INLINE hn::Vec<Halves> NarrowBF16(hn::Vec<Words> bits) {
  const Words d;
  const hn::RebindToSigned<Words> di;
  const auto upper = hn::ShiftRight<16>(bits);
  const auto bias = hn::Add(hn::And(upper, hn::Set(d, 1u)), hn::Set(d, 0x7fffu));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, bias));
  const auto magnitude = hn::BitCast(di, hn::And(bits, hn::Set(d, 0x7fffffffu)));
  const auto is_nan = hn::RebindMask(d, hn::Gt(magnitude, hn::Set(di, 0x7f800000)));
  const auto nan = hn::Or(upper, hn::Set(d, 0x40u));
  return hn::TruncateTo(Halves(), hn::IfThenElse(is_nan, nan, rounded));
}

// Whole vectors; returns how many elements that were.
template <class Convert>
HWY_INLINE size_t Widening(const uint8_t* from, float* to, size_t count, const Convert& convert) {
  const size_t lanes = hn::Lanes(Words());
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto half = hn::BitCast(Halves(), hn::LoadU(HalfBytes(), from + 2 * i));
    hn::StoreU(hn::BitCast(Floats(), convert(half)), Floats(), to + i);
  }
  return i;
}

template <class Convert>
HWY_INLINE size_t Narrowing(const float* from, uint8_t* to, size_t count, const Convert& convert) {
  const size_t lanes = hn::Lanes(Words());
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto bits = hn::BitCast(Words(), hn::LoadU(Floats(), from + i));
    hn::StoreU(hn::BitCast(HalfBytes(), convert(bits)), HalfBytes(), to + 2 * i);
  }
  return i;
}

size_t WidenF16Impl(const uint8_t* from, float* to, size_t count) {
  return Widening(from, to, count, [](hn::Vec<Halves> h) HWY_ATTR { return Widen(h); });
}
size_t WidenBF16Impl(const uint8_t* from, float* to, size_t count) {
  return Widening(from, to, count, [](hn::Vec<Halves> h) HWY_ATTR {
    return hn::ShiftLeft<16>(hn::PromoteTo(Words(), h));
  });
}
size_t NarrowF16Impl(const float* from, uint8_t* to, size_t count) {
  return Narrowing(from, to, count, [](hn::Vec<Words> w) HWY_ATTR { return NarrowF16(w); });
}
size_t NarrowBF16Impl(const float* from, uint8_t* to, size_t count) {
  return Narrowing(from, to, count, [](hn::Vec<Words> w) HWY_ATTR { return NarrowBF16(w); });
}

#undef PENNYWEIGHT_NATIVE_F16

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace pennyweight {

HWY_EXPORT(WidenF16Impl);
HWY_EXPORT(WidenBF16Impl);
HWY_EXPORT(NarrowF16Impl);
HWY_EXPORT(NarrowBF16Impl);

namespace {

// What is left behind the whole vectors.
template <class Convert>
void WidenRest(const uint8_t* from, float* to, size_t i, size_t count, const Convert& convert) {
  for (; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, from + 2 * i, 2);
    to[i] = convert(bits);
  }
}

template <class Convert>
void NarrowRest(const float* from, uint8_t* to, size_t i, size_t count, const Convert& convert) {
  for (; i < count; ++i) {
    const uint16_t bits = convert(from[i]);
    std::memcpy(to + 2 * i, &bits, 2);
  }
}

}  // namespace

void WidenF16Array(const void* from, float* to, size_t count) {
  const auto* in = static_cast<const uint8_t*>(from);
  WidenRest(in, to, HWY_DYNAMIC_DISPATCH(WidenF16Impl)(in, to, count), count, F16ToF32);
}

void WidenBF16Array(const void* from, float* to, size_t count) {
  const auto* in = static_cast<const uint8_t*>(from);
  WidenRest(in, to, HWY_DYNAMIC_DISPATCH(WidenBF16Impl)(in, to, count), count, BF16ToF32);
}

void NarrowF16Array(const float* from, void* to, size_t count) {
  auto* out = static_cast<uint8_t*>(to);
  NarrowRest(from, out, HWY_DYNAMIC_DISPATCH(NarrowF16Impl)(from, out, count), count, F32ToF16);
}

void NarrowBF16Array(const float* from, void* to, size_t count) {
  auto* out = static_cast<uint8_t*>(to);
  NarrowRest(from, out, HWY_DYNAMIC_DISPATCH(NarrowBF16Impl)(from, out, count), count, F32ToBF16);
}

}  // namespace pennyweight
#endif  // HWY_ONCE
