#include "quant/element_kernels.h"

#include <algorithm>
#include <array>
#include <bit>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/element_kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#ifndef PENNYWEIGHT_ELEMENT_KERNELS_ONCE
#define PENNYWEIGHT_ELEMENT_KERNELS_ONCE
namespace pennyweight {

constexpr std::array<float, 16> kNf4Levels = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};
constexpr std::array<float, 16> kFp4Levels = {
    0.0f,  0.0625f / 12,  8.0f / 12,  1.0f,  4.0f / 12,  0.5f,  2.0f / 12,  0.25f,
    -0.0f, -0.0625f / 12, -8.0f / 12, -1.0f, -4.0f / 12, -0.5f, -2.0f / 12, -0.25f,
};
// The magnitudes of FP4 in rising order.
constexpr std::array<float, 8> kFp4Magnitudes = {0.0f,      0.0625f / 12, 2.0f / 12, 0.25f,
                                                 4.0f / 12, 0.5f,         8.0f / 12, 1.0f};

template <size_t kCount>
constexpr std::array<float, kCount - 1> Midpoints(const std::array<float, kCount>& levels) {
  std::array<float, kCount - 1> middle{};
  for (size_t i = 0; i + 1 < kCount; ++i) middle[i] = (levels[i] + levels[i + 1]) / 2;
  return middle;
}
constexpr auto kNf4Midpoints = Midpoints(kNf4Levels);
constexpr auto kFp4Midpoints = Midpoints(kFp4Magnitudes);

}  // namespace pennyweight
#endif  // PENNYWEIGHT_ELEMENT_KERNELS_ONCE

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// For elements: as wide as the target is. For sums: eight chains, as in scale_kernels.cc.
using Wide = hn::ScalableTag<float>;
constexpr int64_t kChains = 8;
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
constexpr int64_t kWidth = 8;
#else
constexpr int64_t kWidth = 4;
#endif
using Chain = hn::FixedTag<float, kWidth>;

// Small floats by integer arithmetic: sign, exponent of bias kBias, kMantissa bits.
template <int kBits, int kMantissa, int kBias, uint32_t kMaxBits>
struct Minifloat {
  static constexpr int kDrop = 23 - kMantissa;
  static constexpr int32_t kSmallestNormal = (128 - kBias) << 23;
  // The sum of a value below the smallest normal with this has an ulp of the smallest subnormal, so
  // that the addition itself rounds to nearest even at the right place.
  static constexpr float kMagic = static_cast<float>(1 << (24 - kBias - kMantissa));

  template <class D, class I = hn::RebindToSigned<D>>
  static HWY_INLINE hn::Vec<I> Magnitude(D d, hn::Vec<D> v) {
    const I i;
    const auto bits = hn::And(hn::BitCast(i, v), hn::Set(i, 0x7fffffff));
    (void)d;
    return hn::Min(bits, hn::Set(i, static_cast<int32_t>(kMaxBits)));
  }

  // What has to be added before kDrop bits go: just under half of them, and the lowest kept bit.
  template <class I>
  static HWY_INLINE hn::Vec<I> Rounding(I i, hn::Vec<I> magnitude) {
    const auto lowest = hn::And(hn::ShiftRight<kDrop>(magnitude), hn::Set(i, 1));
    return hn::Add(lowest, hn::Set(i, (1 << (kDrop - 1)) - 1));
  }

  template <class D, class I = hn::RebindToSigned<D>>
  static HWY_INLINE hn::Vec<I> Codes(D d, hn::Vec<D> v) {
    const I i;
    const auto a = Magnitude(d, v);
    const auto magic = hn::Set(d, kMagic);
    const auto small =
        hn::Sub(hn::BitCast(i, hn::Add(hn::BitCast(d, a), magic)), hn::BitCast(i, magic));
    const auto rebased = hn::Sub(a, hn::Set(i, (127 - kBias) << 23));
    const auto normal = hn::ShiftRight<kDrop>(hn::Add(rebased, Rounding(i, a)));
    const auto code = hn::IfThenElse(hn::Lt(a, hn::Set(i, kSmallestNormal)), small, normal);
    const hn::RebindToUnsigned<D> u;
    const auto sign =
        hn::And(hn::ShiftRight<32 - kBits>(hn::BitCast(u, v)), hn::Set(u, 1u << (kBits - 1)));
    return hn::Or(code, hn::BitCast(i, sign));
  }

  template <class D>
  static HWY_INLINE hn::Vec<D> Values(D d, hn::Vec<D> v) {
    const hn::RebindToSigned<D> i;
    const auto a = Magnitude(d, v);
    const auto magic = hn::Set(d, kMagic);
    const auto small = hn::Sub(hn::Add(hn::BitCast(d, a), magic), magic);
    const auto kept = hn::And(hn::Add(a, Rounding(i, a)), hn::Set(i, -(1 << kDrop)));
    const auto is_small = hn::RebindMask(d, hn::Lt(a, hn::Set(i, kSmallestNormal)));
    return hn::CopySign(hn::IfThenElse(is_small, small, hn::BitCast(d, kept)), v);
  }
};

using E4M3 = Minifloat<8, 3, 7, 0x43e00000>;   // 448
using E5M2 = Minifloat<8, 2, 15, 0x47600000>;  // 57344
using E2M1 = Minifloat<4, 1, 1, 0x40c00000>;   // 6

// The number of midpoints below v.
template <class D, size_t kCount, class I = hn::RebindToSigned<D>>
HWY_INLINE hn::Vec<I> CountBelow(D d, hn::Vec<D> v, const std::array<float, kCount>& midpoints) {
  const I i;
  auto count = hn::Zero(i);
  for (size_t m = 0; m < kCount; ++m) {
    const auto above = hn::RebindMask(i, hn::Gt(v, hn::Set(d, midpoints[m])));
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
    count = hn::IfThenElse(above, hn::Set(i, static_cast<int32_t>(m + 1)), count);
#else
    count = hn::Sub(count, hn::VecFromMask(i, above));
#endif
  }
  return count;
}

// The level that v is nearest to.
template <class D, size_t kCount>
HWY_INLINE hn::Vec<D> NearestLevel(D d, hn::Vec<D> v, const std::array<float, kCount + 1>& levels,
                                   const std::array<float, kCount>& midpoints) {
  auto value = hn::Set(d, levels[0]);
  for (size_t m = 0; m < kCount; ++m) {
    const auto above = hn::Gt(v, hn::Set(d, midpoints[m]));
    value = hn::IfThenElse(above, hn::Set(d, levels[m + 1]), value);
  }
  return value;
}

struct Nf4 {
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  // A vector holds the whole table: four steps of a binary search instead of fifteen comparisons.
  template <class D>
  static HWY_INLINE hn::Vec<hn::RebindToSigned<D>> Codes(D d, hn::Vec<D> v) {
    static_assert(hn::MaxLanes(D()) == 16);
    const hn::RebindToSigned<D> i;
    HWY_ALIGN static constexpr float kTable[16] = {
        kNf4Midpoints[0],  kNf4Midpoints[1],  kNf4Midpoints[2],  kNf4Midpoints[3],
        kNf4Midpoints[4],  kNf4Midpoints[5],  kNf4Midpoints[6],  kNf4Midpoints[7],
        kNf4Midpoints[8],  kNf4Midpoints[9],  kNf4Midpoints[10], kNf4Midpoints[11],
        kNf4Midpoints[12], kNf4Midpoints[13], kNf4Midpoints[14], 2.0f};
    const auto table = hn::LoadU(d, kTable);
    auto code = hn::IfThenElseZero(hn::RebindMask(i, hn::Gt(v, hn::Set(d, kNf4Midpoints[7]))),
                                   hn::Set(i, 8));
    for (const int32_t step : {4, 2, 1}) {
      const auto probe = hn::Add(code, hn::Set(i, step - 1));
      const auto middle = hn::TableLookupLanes(table, hn::IndicesFromVec(d, probe));
      const auto above = hn::RebindMask(i, hn::Gt(v, middle));
      code = hn::Add(code, hn::IfThenElseZero(above, hn::Set(i, step)));
    }
    return code;
  }
#else
  template <class D>
  static HWY_INLINE hn::Vec<hn::RebindToSigned<D>> Codes(D d, hn::Vec<D> v) {
    return CountBelow(d, v, kNf4Midpoints);
  }
#endif
  template <class D>
  static HWY_INLINE hn::Vec<D> Values(D d, hn::Vec<D> v) {
    return NearestLevel(d, v, kNf4Levels, kNf4Midpoints);
  }
};

struct Fp4 {
  // Places in rising order 0 1 | 2 3 | 4 5 | 6 7 have the codes 0 1 | 6 7 | 4 5 | 2 3.
  template <class D>
  static HWY_INLINE hn::Vec<hn::RebindToSigned<D>> Codes(D d, hn::Vec<D> v) {
    const hn::RebindToSigned<D> i;
    const hn::RebindToUnsigned<D> u;
    const auto place = CountBelow(d, hn::Abs(v), kFp4Midpoints);
    const auto code = hn::Xor(place, hn::ShiftLeft<1>(hn::And(place, hn::Set(i, 2))));
    const auto sign = hn::And(hn::ShiftRight<28>(hn::BitCast(u, v)), hn::Set(u, 8u));
    return hn::Or(code, hn::BitCast(i, sign));
  }
  template <class D>
  static HWY_INLINE hn::Vec<D> Values(D d, hn::Vec<D> v) {
    return hn::CopySign(NearestLevel(d, hn::Abs(v), kFp4Magnitudes, kFp4Midpoints), v);
  }
};

// Powers of two divide by their inverses, which is exact and takes a quarter of the time.
template <bool kPower>
HWY_INLINE hn::Vec<Wide> Divided(hn::Vec<Wide> v, hn::Vec<Wide> by) {
  return kPower ? hn::Mul(v, by) : hn::Div(v, by);
}

// x[n] under one scale. A rest of less than a vector goes through a padded buffer.
template <class Set, bool kPower = false>
HWY_INLINE void EncodeRun(const float* HWY_RESTRICT x, int64_t n, float scale,
                          uint8_t* HWY_RESTRICT codes) {
  const Wide d;
  const hn::Rebind<uint8_t, Wide> bytes;
  const auto width = static_cast<int64_t>(hn::Lanes(d));
  const auto by = hn::Set(d, kPower ? 1.0f / scale : scale);
  int64_t at = 0;
  for (; at + width <= n; at += width) {
    const auto code = Set::Codes(d, Divided<kPower>(hn::LoadU(d, x + at), by));
    hn::StoreU(hn::DemoteTo(bytes, code), bytes, codes + at);
  }
  if (at == n) return;
  HWY_ALIGN float rest[hn::MaxLanes(Wide())] = {};
  HWY_ALIGN uint8_t out[hn::MaxLanes(Wide())];
  std::copy(x + at, x + n, rest);
  hn::StoreU(hn::DemoteTo(bytes, Set::Codes(d, Divided<kPower>(hn::Load(d, rest), by))), bytes,
             out);
  std::copy(out, out + (n - at), codes + at);
}

template <class Set>
void EncodeAll(const float* x, int64_t n, int64_t group, const float* scales, uint8_t* codes) {
  for (int64_t begin = 0, g = 0; begin < n; begin += group, ++g) {
    EncodeRun<Set>(x + begin, std::min(group, n - begin), scales[g], codes + begin);
  }
}

void EncodePowerGroupsImpl(const float* x, int64_t n, int64_t group, const float* scales,
                           uint8_t* codes) {
  for (int64_t begin = 0, g = 0; begin < n; begin += group, ++g) {
    EncodeRun<E2M1, true>(x + begin, std::min(group, n - begin), scales[g], codes + begin);
  }
}

void EncodeGroupsImpl(ElementSet set, const float* x, int64_t n, int64_t group, const float* scales,
                      uint8_t* codes) {
  switch (set) {
    case ElementSet::kE4M3:
      return EncodeAll<E4M3>(x, n, group, scales, codes);
    case ElementSet::kE5M2:
      return EncodeAll<E5M2>(x, n, group, scales, codes);
    case ElementSet::kE2M1:
      return EncodeAll<E2M1>(x, n, group, scales, codes);
    case ElementSet::kNf4:
      return EncodeAll<Nf4>(x, n, group, scales, codes);
    case ElementSet::kFp4:
      return EncodeAll<Fp4>(x, n, group, scales, codes);
  }
}

void GroupMagnitudesImpl(const float* x, int64_t n, int64_t group, uint32_t* bits) {
  const Wide d;
  const hn::RebindToSigned<Wide> i;
  const auto width = static_cast<int64_t>(hn::Lanes(d));
  const auto mask = hn::Set(i, 0x7fffffff);
  for (int64_t begin = 0, g = 0; begin < n; begin += group, ++g) {
    const int64_t end = std::min(n, begin + group);
    auto most = hn::Zero(i);
    int64_t at = begin;
    for (; at + width <= end; at += width) {
      most = hn::Max(most, hn::And(hn::BitCast(i, hn::LoadU(d, x + at)), mask));
    }
    int32_t rest = 0;
    for (; at < end; ++at) rest = std::max(rest, std::bit_cast<int32_t>(x[at]) & 0x7fffffff);
    bits[g] = static_cast<uint32_t>(std::max(rest, hn::GetLane(hn::MaxOfLanes(i, most))));
  }
}

HWY_INLINE float SumChains(const float* c) {
  return ((c[0] + c[4]) + (c[2] + c[6])) + ((c[1] + c[5]) + (c[3] + c[7]));
}

template <class Set>
ElementSums SumAll(const KernelBlock& block, float scale) {
  const Chain d;
  const auto by = hn::Set(d, scale);
  HWY_ALIGN float sum_a[kChains], sum_b[kChains];
  for (int64_t v = 0; v < kChains; v += kWidth) {
    auto a = hn::Zero(d), b = hn::Zero(d);
    for (int64_t i = v; i < block.n; i += kChains) {
      const auto q = Set::Values(d, hn::Div(hn::LoadU(d, block.x + i), by));
      a = hn::Add(a, hn::Mul(hn::LoadU(d, block.hx + i), q));
      b = hn::Add(b, hn::Mul(hn::Mul(hn::LoadU(d, block.h + i), q), q));
    }
    hn::StoreU(a, d, sum_a + v);
    hn::StoreU(b, d, sum_b + v);
  }
  return {SumChains(sum_a), SumChains(sum_b)};
}

template <class Set>
float ErrorsOfAll(const KernelBlock& block, float scale) {
  const Chain d;
  const auto by = hn::Set(d, scale);
  HWY_ALIGN float sum[kChains];
  for (int64_t v = 0; v < kChains; v += kWidth) {
    auto total = hn::Zero(d);
    for (int64_t i = v; i < block.n; i += kChains) {
      const auto x = hn::LoadU(d, block.x + i);
      const auto e = hn::Sub(x, hn::Mul(Set::Values(d, hn::Div(x, by)), by));
      total = hn::Add(total, hn::Mul(hn::Mul(hn::LoadU(d, block.h + i), e), e));
    }
    hn::StoreU(total, d, sum + v);
  }
  return SumChains(sum);
}

ElementSums SumElementsImpl(ElementSet set, const KernelBlock& block, float scale) {
  switch (set) {
    case ElementSet::kE4M3:
      return SumAll<E4M3>(block, scale);
    case ElementSet::kE5M2:
      return SumAll<E5M2>(block, scale);
    case ElementSet::kE2M1:
      return SumAll<E2M1>(block, scale);
    case ElementSet::kNf4:
      return SumAll<Nf4>(block, scale);
    case ElementSet::kFp4:
      return SumAll<Fp4>(block, scale);
  }
  return {0, 0};
}

float SumElementErrorsImpl(ElementSet set, const KernelBlock& block, float scale) {
  switch (set) {
    case ElementSet::kE4M3:
      return ErrorsOfAll<E4M3>(block, scale);
    case ElementSet::kE5M2:
      return ErrorsOfAll<E5M2>(block, scale);
    case ElementSet::kE2M1:
      return ErrorsOfAll<E2M1>(block, scale);
    case ElementSet::kNf4:
      return ErrorsOfAll<Nf4>(block, scale);
    case ElementSet::kFp4:
      return ErrorsOfAll<Fp4>(block, scale);
  }
  return 0;
}

void PackHalvesImpl(const uint8_t* codes, int64_t n, uint8_t* bytes) {
  const hn::ScalableTag<uint16_t> d;
  const hn::Rebind<uint8_t, decltype(d)> half;
  const auto width = static_cast<int64_t>(hn::Lanes(d));
  int64_t at = 0;  // bytes
  for (; at + width <= n / 2; at += width) {
    const auto pair =
        hn::BitCast(d, hn::LoadU(hn::Repartition<uint8_t, decltype(d)>(), codes + 2 * at));
    const auto joined = hn::And(hn::Or(pair, hn::ShiftRight<4>(pair)), hn::Set(d, uint16_t{0xff}));
    hn::StoreU(hn::TruncateTo(half, joined), half, bytes + at);
  }
  for (; at < n / 2; ++at) {
    bytes[at] = static_cast<uint8_t>(codes[2 * at] | codes[2 * at + 1] << 4);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace pennyweight {

HWY_EXPORT(EncodePowerGroupsImpl);
HWY_EXPORT(EncodeGroupsImpl);
HWY_EXPORT(GroupMagnitudesImpl);
HWY_EXPORT(SumElementsImpl);
HWY_EXPORT(SumElementErrorsImpl);
HWY_EXPORT(PackHalvesImpl);

ElementSet SetOf(DType dtype) {
  return dtype == DType::kF8E5M2 ? ElementSet::kE5M2
         : dtype == DType::kF4   ? ElementSet::kE2M1
                                 : ElementSet::kE4M3;
}

ElementSet SetOf(CodebookSpec::Book book) {
  return book == CodebookSpec::Book::kNf4 ? ElementSet::kNf4 : ElementSet::kFp4;
}

float LargestElement(ElementSet set) {
  switch (set) {
    case ElementSet::kE4M3:
      return 448;
    case ElementSet::kE5M2:
      return 57344;
    case ElementSet::kE2M1:
      return 6;
    case ElementSet::kNf4:
    case ElementSet::kFp4:
      break;
  }
  return 1;
}

uint8_t ZeroCode(ElementSet set) { return set == ElementSet::kNf4 ? 7 : 0; }

std::span<const float> LevelsOf(CodebookSpec::Book book) {
  return book == CodebookSpec::Book::kNf4 ? kNf4Levels : kFp4Levels;
}

void GroupMagnitudes(const float* x, int64_t n, int64_t group, uint32_t* bits) {
  HWY_DYNAMIC_DISPATCH(GroupMagnitudesImpl)(x, n, group, bits);
}

void EncodePowerGroups(const float* x, int64_t n, int64_t group, const float* scales,
                       uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(EncodePowerGroupsImpl)(x, n, group, scales, codes);
}

void EncodeGroups(ElementSet set, const float* x, int64_t n, int64_t group, const float* scales,
                  uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(EncodeGroupsImpl)(set, x, n, group, scales, codes);
}

ElementSums SumElements(ElementSet set, const KernelBlock& block, float scale) {
  return HWY_DYNAMIC_DISPATCH(SumElementsImpl)(set, block, scale);
}

float SumElementErrors(ElementSet set, const KernelBlock& block, float scale) {
  return HWY_DYNAMIC_DISPATCH(SumElementErrorsImpl)(set, block, scale);
}

void PackHalves(const uint8_t* codes, int64_t n, uint8_t* bytes) {
  HWY_DYNAMIC_DISPATCH(PackHalvesImpl)(codes, n, bytes);
}

}  // namespace pennyweight
#endif  // HWY_ONCE
