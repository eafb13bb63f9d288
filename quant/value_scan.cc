#include "quant/value_scan.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/value_scan.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// One vector's worth of the three facts.
template <class D>
struct Facts {
  hn::Vec<D> any, differ, largest;

  explicit Facts(D d) : any(hn::Zero(d)), differ(hn::Zero(d)), largest(hn::Zero(d)) {}
  HWY_INLINE void Add(hn::Vec<D> v, hn::Vec<D> first, hn::Vec<D> flip, hn::Vec<D> mask) {
    any = hn::Or(any, v);
    differ = hn::Or(differ, hn::Xor(v, first));
    largest = hn::Max(largest, hn::And(hn::Xor(v, flip), mask));
  }
};

template <class T>
ValueFacts Scan(const uint8_t* data, size_t count, const SpecialValues& special, uint64_t first) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  const auto vfirst = hn::Set(d, static_cast<T>(first));
  const auto vflip = hn::Set(d, static_cast<T>(special.flip));
  const auto vmask = hn::Set(d, static_cast<T>(special.mask));
  const auto load = [&](size_t i) {
    return hn::BitCast(d, hn::LoadU(hn::Repartition<uint8_t, decltype(d)>(), data + i * sizeof(T)));
  };
  Facts<decltype(d)> a(d), b(d);
  size_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    a.Add(load(i), vfirst, vflip, vmask);
    b.Add(load(i + lanes), vfirst, vflip, vmask);
  }
  for (; i + lanes <= count; i += lanes) a.Add(load(i), vfirst, vflip, vmask);
  HWY_ALIGN T any[HWY_MAX_BYTES / sizeof(T)], differ[HWY_MAX_BYTES / sizeof(T)],
      largest[HWY_MAX_BYTES / sizeof(T)];
  hn::Store(hn::Or(a.any, b.any), d, any);
  hn::Store(hn::Or(a.differ, b.differ), d, differ);
  hn::Store(hn::Max(a.largest, b.largest), d, largest);
  ValueFacts facts;
  for (size_t l = 0; l < lanes; ++l) {
    facts.any |= any[l];
    facts.differ |= differ[l];
    if (largest[l] > facts.largest) facts.largest = largest[l];
  }
  for (; i < count; ++i) {
    T v;
    std::memcpy(&v, data + i * sizeof(T), sizeof(T));
    facts.any |= v;
    facts.differ |= static_cast<T>(v ^ static_cast<T>(first));
    const uint64_t m = (v ^ special.flip) & special.mask;
    if (m > facts.largest) facts.largest = m;
  }
  return facts;
}

ValueFacts ScanImpl(const uint8_t* data, size_t count, const SpecialValues& special,
                    uint64_t first) {
  switch (special.bytes) {
    case 1:
      return Scan<uint8_t>(data, count, special, first);
    case 2:
      return Scan<uint16_t>(data, count, special, first);
    case 4:
      return Scan<uint32_t>(data, count, special, first);
    default:
      return Scan<uint64_t>(data, count, special, first);
  }
}

// Bits of F32 that no F16 has.
constexpr uint32_t kBelowF16 = 0x1FFF;
constexpr uint32_t kBiggest = 0x477FE000;         // 65504
constexpr uint32_t kSmallestNormal = 0x38800000;  // 2^-14
constexpr uint32_t kInfinity = 0x7F800000;

// 13 bits without use, and in range; below 2^-14 a multiple of 2^-24, which is the last bit of 0.5.
size_t FitF16Impl(const uint8_t* data, size_t count) {
  const hn::ScalableTag<uint32_t> d;
  const hn::RebindToFloat<decltype(d)> df;
  const size_t lanes = hn::Lanes(d);
  const auto half = hn::Set(df, 0.5f);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto v = hn::BitCast(d, hn::LoadU(hn::Repartition<uint8_t, decltype(d)>(), data + i * 4));
    const auto magnitude = hn::And(v, hn::Set(d, 0x7FFFFFFFu));
    const auto low = hn::And(v, hn::Set(d, kBelowF16));
    const auto m = hn::BitCast(df, magnitude);
    const auto is_multiple = hn::Eq(hn::Sub(hn::Add(m, half), half), m);
    // Signed comparisons: magnitudes have no sign bit.
    const hn::RebindToSigned<decltype(d)> di;
    const auto mi = hn::BitCast(di, magnitude);
    const auto small = hn::Lt(mi, hn::Set(di, static_cast<int32_t>(kSmallestNormal)));
    const auto big = hn::Gt(mi, hn::Set(di, static_cast<int32_t>(kBiggest)));
    const auto infinite = hn::Eq(mi, hn::Set(di, static_cast<int32_t>(kInfinity)));
    const auto fits_small = hn::And(small, hn::RebindMask(di, is_multiple));
    const auto plain = hn::RebindMask(di, hn::Eq(low, hn::Zero(d)));
    const auto fits_normal = hn::And(plain, hn::Not(hn::Or(small, big)));
    const auto fits = hn::Or(hn::Or(fits_small, fits_normal), infinite);
    if (!hn::AllTrue(di, fits)) return 0;
  }
  for (; i < count; ++i) {
    float value;
    std::memcpy(&value, data + i * 4, 4);
    if (!(F16ToF32(F32ToF16(value)) == value)) return 0;
  }
  return 1;
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace pennyweight {

HWY_EXPORT(ScanImpl);
HWY_EXPORT(FitF16Impl);

SpecialValues SpecialValuesOf(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return {2, 0, 0x7FFF, 0x7C00, 0x7C00};
    case DType::kBF16:
      return {2, 0, 0x7FFF, 0x7F80, 0x7F80};
    case DType::kF32:
    case DType::kC64:
      return {4, 0, 0x7FFFFFFF, 0x7F800000, 0x7F800000};
    case DType::kF64:
      return {8, 0, 0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000, 0x7FF0000000000000};
    // Table 1 of "FP8 Formats for Deep Learning" (arXiv 2209.05433); the FNUZ forms have their one
    // NaN where -0 would be, E8M0 (OCP MX 1.0) at 0xFF.
    case DType::kF8E5M2:
      return {1, 0, 0x7F, 0x7C, 0x7C};
    case DType::kF8E4M3:
      return {1, 0, 0x7F, 0x7F, 0};
    case DType::kF8E4M3Fnuz:
    case DType::kF8E5M2Fnuz:
      return {1, 0x7F, 0xFF, 0xFF, 0};
    case DType::kF8E8M0:
      return {1, 0, 0xFF, 0xFF, 0};
    case DType::kI16:
    case DType::kU16:
      return {2, 0, 0xFFFF, 0, 0};
    case DType::kI32:
    case DType::kU32:
      return {4, 0, 0xFFFFFFFF, 0, 0};
    case DType::kI64:
    case DType::kU64:
      return {8, 0, ~uint64_t{0}, 0, 0};
    case DType::kBool:
    case DType::kU8:
    case DType::kI8:
    case DType::kF4:
    case DType::kF6E2M3:
    case DType::kF6E3M2:
      return {1, 0, 0xFF, 0, 0};
  }
  return {1, 0, 0xFF, 0, 0};
}

ValueFacts ScanValues(const void* data, size_t count, const SpecialValues& special,
                      uint64_t first) {
  return HWY_DYNAMIC_DISPATCH(ScanImpl)(static_cast<const uint8_t*>(data), count, special, first);
}

bool AllFitF16(const void* data, size_t count) {
  return HWY_DYNAMIC_DISPATCH(FitF16Impl)(static_cast<const uint8_t*>(data), count) != 0;
}

}  // namespace pennyweight
#endif  // HWY_ONCE
