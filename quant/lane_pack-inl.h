// From codes in lane order, codes[column][kLanes] bytes, to the packed blocks of kLanes rows.
// Fields are merged while still in lane order (one vector of bytes is one column of all rows), so
// that only packed bytes are transposed.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "quant/lanes-inl.h"

#if defined(PENNYWEIGHT_QUANT_LANE_PACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_LANE_PACK_INL_H_
#undef PENNYWEIGHT_QUANT_LANE_PACK_INL_H_
#else
#define PENNYWEIGHT_QUANT_LANE_PACK_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {

// Stores the codes of one column, integers in [0, 255], of the lanes of this vector; `codes`
// already points at the first of them.
HWY_INLINE void StoreCode(V q, uint8_t* codes, int64_t i) {
  const hn::Rebind<uint8_t, LaneTag> d8;
  const hn::Rebind<int32_t, LaneTag> d32;
  hn::StoreU(hn::DemoteTo(d8, hn::ConvertTo(d32, q)), d8, codes + i * kLanes);
}
// The same for integers in [-128, 127], as their two's complement.
HWY_INLINE void StoreSignedCode(V q, uint8_t* codes, int64_t i) {
  const hn::Rebind<uint8_t, LaneTag> d8;
  const hn::Rebind<int8_t, LaneTag> di8;
  const hn::Rebind<int32_t, LaneTag> d32;
  const auto bytes = hn::DemoteTo(di8, hn::ConvertTo(d32, q));
  hn::StoreU(hn::BitCast(d8, bytes), d8, codes + i * kLanes);
}

// out[i][lane], i in [0, n): 8 / kBits fields in one byte. Field k, counted from the lowest bits,
// is bits [kShift, kShift + kBits) of codes[i * next + k * step]. Q4_0's nibbles: <0, 4>(codes, 1,
// 16, 16, out); the fifth bits of Q5_0: <4, 1>(codes, 8, 1, 4, out).
template <int kShift, int kBits>
HWY_INLINE void MergeFields(const uint8_t* codes, int64_t next, int64_t step, int64_t n,
                            uint8_t* out) {
  static_assert(kBits == 1 || kBits == 2 || kBits == 4);
  static_assert(kShift >= 0 && kShift + kBits <= 8);
  constexpr int kFields = 8 / kBits;
  constexpr int kMask = (1 << kBits) - 1;
#if HWY_TARGET == HWY_SCALAR
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t l = 0; l < kLanes; ++l) {
      int byte = 0;
      for (int k = 0; k < kFields; ++k) {
        const int code = codes[(i * next + k * step) * kLanes + l];
        byte |= (code >> kShift & kMask) << (k * kBits);
      }
      out[i * kLanes + l] = static_cast<uint8_t>(byte);
    }
  }
#else
  // Shifts act on words of 16 bits; the mask drops what crossed a byte.
  const hn::FixedTag<uint8_t, kLanes> d;
  const hn::Repartition<uint16_t, decltype(d)> d16;
  for (int64_t i = 0; i < n; ++i) {
    auto bytes = hn::Zero(d);
    for (int k = 0; k < kFields; ++k) {
      const auto code = hn::BitCast(d16, hn::LoadU(d, codes + (i * next + k * step) * kLanes));
      const int left = k * kBits - kShift;
      const auto moved =
          left >= 0 ? hn::ShiftLeftSame(code, left) : hn::ShiftRightSame(code, -left);
      const auto mask = hn::Set(d, static_cast<uint8_t>(kMask << (k * kBits)));
      bytes = hn::Or(bytes, hn::And(hn::BitCast(d, moved), mask));
    }
    hn::StoreU(bytes, d, out + i * kLanes);
  }
#endif
}

// columns[n][kLanes] into out[lane * stride + i], i in [0, n): bytes of packed blocks, `stride`
// bytes from row to row.
HWY_INLINE void TransposeBytes(const uint8_t* columns, int64_t n, uint8_t* out, int64_t stride) {
  const int64_t whole = HWY_TARGET == HWY_SCALAR ? 0 : n / kLanes * kLanes;
#if HWY_TARGET != HWY_SCALAR
  const hn::FixedTag<uint8_t, kLanes> d;
  using Bytes = hn::Vec<hn::FixedTag<uint8_t, kLanes>>;
  for (int64_t i = 0; i < whole; i += kLanes) {
    // Interleaving vector k with k + 8 four times over transposes a 16 x 16 matrix.
    Bytes a[kLanes], b[kLanes];
    for (int64_t k = 0; k < kLanes; ++k) a[k] = hn::LoadU(d, columns + (i + k) * kLanes);
    for (int stage = 0; stage < 2; ++stage) {
      for (int64_t k = 0; k < kLanes / 2; ++k) {
        b[2 * k] = hn::InterleaveLower(d, a[k], a[k + 8]);
        b[2 * k + 1] = hn::InterleaveUpper(d, a[k], a[k + 8]);
      }
      for (int64_t k = 0; k < kLanes / 2; ++k) {
        a[2 * k] = hn::InterleaveLower(d, b[k], b[k + 8]);
        a[2 * k + 1] = hn::InterleaveUpper(d, b[k], b[k + 8]);
      }
    }
    for (int64_t l = 0; l < kLanes; ++l) hn::StoreU(a[l], d, out + l * stride + i);
  }
#endif
  for (int64_t i = whole; i < n; ++i) {
    for (int64_t l = 0; l < kLanes; ++l) out[l * stride + i] = columns[i * kLanes + l];
  }
}

// The fp16 bits of values that RoundToF16 gave.
HWY_INLINE hn::Vec<hn::RebindToUnsigned<LaneTag>> F16BitsV(V v) {
  const LaneTag d;
  const hn::RebindToUnsigned<LaneTag> du;
  const V magnitude = hn::Abs(v);
  const auto bits = hn::BitCast(du, magnitude);
  const auto normal = hn::ShiftRight<13>(hn::Sub(bits, hn::Set(du, 112u << 23)));
  // Below 2^-14: m * 2^-24, which the sum with 0.5 holds in its lowest bits.
  const auto small =
      hn::Sub(hn::BitCast(du, hn::Add(magnitude, Splat(0.5f))), hn::Set(du, 0x3F000000u));
  const VMask is_small = hn::Lt(magnitude, Splat(0x1p-14f));
  const auto number =
      hn::BitCast(du, hn::IfThenElse(is_small, hn::BitCast(d, small), hn::BitCast(d, normal)));
  const auto sign = hn::And(hn::ShiftRight<16>(hn::BitCast(du, v)), hn::Set(du, 0x8000u));
  return hn::Or(number, sign);
}

// values[kLanes], each as RoundToF16 gave it, as little-endian fp16 at out + lane * stride.
HWY_INLINE void StoreF16Lanes(const float* values, uint8_t* out, int64_t stride) {
  const hn::RebindToUnsigned<LaneTag> du;
  HWY_ALIGN uint32_t bits[kLanes];
  for (int64_t l = 0; l < kLanes; l += VWidth()) {
    hn::StoreU(F16BitsV(hn::LoadU(LaneTag(), values + l)), du, bits + l);
  }
  for (int64_t l = 0; l < kLanes; ++l) {
    const auto word = static_cast<uint16_t>(bits[l]);
    std::memcpy(out + l * stride, &word, sizeof(word));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
