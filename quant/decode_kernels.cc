// Each type in two steps, block by block: the codes as signed bytes, then codes times scale (plus
// or less a minimum). Nothing is fused, so that the results are those of the plain decoders.
#include "quant/decode_kernels.h"

#include <bit>
#include <cstring>

#include "lib/dtype.h"
#include "quant/codec_blocks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/decode_kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::CappedTag<float, 16>;
using Integers = hn::RebindToSigned<Floats>;
using Codes = hn::Rebind<int8_t, Floats>;
using Bytes = hn::FixedTag<uint8_t, 16>;
using Vector = hn::Vec<Bytes>;

// The F16 at p; most are normal numbers.
HWY_INLINE float Half(const uint8_t* p) {
  const uint32_t bits = LoadU16(p), exponent = bits & 0x7c00u;
  if (exponent == 0 || exponent == 0x7c00u) return F16ToF32(static_cast<uint16_t>(bits));
  return std::bit_cast<float>((bits & 0x8000u) << 16 | (((bits & 0x7fffu) << 13) + (112u << 23)));
}

HWY_INLINE hn::Vec<Floats> ToFloats(const int8_t* codes) {
  return hn::ConvertTo(Floats(), hn::PromoteTo(Integers(), hn::LoadU(Codes(), codes)));
}

// out[i] = scale * codes[i], for n a multiple of 16; and the same plus `offset`, less `minimum`.
HWY_INLINE void Scale(const int8_t* codes, int n, float scale, float* out) {
  const Floats d;
  const auto s = hn::Set(d, scale);
  const auto step = static_cast<int>(hn::Lanes(d));
  for (int i = 0; i < n; i += step) hn::StoreU(hn::Mul(s, ToFloats(codes + i)), d, out + i);
}
HWY_INLINE void ScaleAdd(const int8_t* codes, int n, float scale, float offset, float* out) {
  const Floats d;
  const auto s = hn::Set(d, scale), o = hn::Set(d, offset);
  const auto step = static_cast<int>(hn::Lanes(d));
  for (int i = 0; i < n; i += step) {
    hn::StoreU(hn::Add(hn::Mul(s, ToFloats(codes + i)), o), d, out + i);
  }
}
HWY_INLINE void ScaleSub(const int8_t* codes, int n, float scale, float minimum, float* out) {
  const Floats d;
  const auto s = hn::Set(d, scale), m = hn::Set(d, minimum);
  const auto step = static_cast<int>(hn::Lanes(d));
  for (int i = 0; i < n; i += step) {
    hn::StoreU(hn::Sub(hn::Mul(s, ToFloats(codes + i)), m), d, out + i);
  }
}

HWY_INLINE Vector Load(const uint8_t* p) { return hn::LoadU(Bytes(), p); }
HWY_INLINE void Store(Vector v, int8_t* to) {
  hn::StoreU(hn::BitCast(hn::FixedTag<int8_t, 16>(), v), hn::FixedTag<int8_t, 16>(), to);
}
HWY_INLINE Vector Fill(int value) { return hn::Set(Bytes(), static_cast<uint8_t>(value)); }

// (v >> kShift) & mask in every byte.
template <int kShift>
HWY_INLINE Vector Field(Vector v, int mask) {
  const hn::Repartition<uint16_t, Bytes> d16;
  const auto shifted = hn::BitCast(Bytes(), hn::ShiftRight<kShift>(hn::BitCast(d16, v)));
  return hn::And(shifted, Fill(mask));
}
// v << kShift in every byte, for v that has room.
template <int kShift>
HWY_INLINE Vector Up(Vector v) {
  const hn::Repartition<uint16_t, Bytes> d16;
  return hn::BitCast(Bytes(), hn::ShiftLeft<kShift>(hn::BitCast(d16, v)));
}

// 16 where bit i of `bits` is set, else 0, for 16 bits.
HWY_INLINE Vector FifthBits(const uint8_t* bits) {
  alignas(16) static constexpr uint8_t kMask[16] = {1, 2, 4, 8, 16, 32, 64, 128,
                                                    1, 2, 4, 8, 16, 32, 64, 128};
  alignas(16) static constexpr uint8_t kByte[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
  const hn::Repartition<uint16_t, Bytes> d16;
  uint16_t word;
  std::memcpy(&word, bits, 2);
  const Vector both = hn::BitCast(Bytes(), hn::Set(d16, word));
  const Vector spread = hn::TableLookupBytes(both, hn::Load(Bytes(), kByte));
  const Vector mask = hn::Load(Bytes(), kMask);
  return hn::IfThenElseZero(hn::Eq(hn::And(spread, mask), mask), Fill(16));
}

// The 32 codes of a block of nibbles, less `zero`; `fifth`: 4 bytes of fifth bits, or nullptr.
HWY_INLINE void Nibbles(const uint8_t* qs, const uint8_t* fifth, int zero, int8_t* codes) {
  const Vector v = Load(qs);
  Vector low = hn::And(v, Fill(15)), high = Field<4>(v, 15);
  if (fifth != nullptr) {
    low = hn::Or(low, FifthBits(fifth));
    high = hn::Or(high, FifthBits(fifth + 2));
  }
  Store(hn::Sub(low, Fill(zero)), codes);
  Store(hn::Sub(high, Fill(zero)), codes + 16);
}

// The same through a table of 16 values.
HWY_INLINE void Lookup(const uint8_t* qs, const int8_t* table, int8_t* codes) {
  const Vector values = Load(reinterpret_cast<const uint8_t*>(table));
  const Vector v = Load(qs);
  Store(hn::TableLookupBytes(values, hn::And(v, Fill(15))), codes);
  Store(hn::TableLookupBytes(values, Field<4>(v, 15)), codes + 16);
}

void RunQ4_0(const uint8_t* block, int64_t count, float* out) {
  alignas(16) int8_t codes[32];
  for (; count > 0; --count, block += 18, out += 32) {
    Nibbles(block + 2, nullptr, 8, codes);
    Scale(codes, 32, Half(block), out);
  }
}

void RunQ4_1(const uint8_t* block, int64_t count, float* out) {
  alignas(16) int8_t codes[32];
  for (; count > 0; --count, block += 20, out += 32) {
    Nibbles(block + 4, nullptr, 0, codes);
    ScaleAdd(codes, 32, Half(block), Half(block + 2), out);
  }
}

void RunQ5_0(const uint8_t* block, int64_t count, float* out) {
  alignas(16) int8_t codes[32];
  for (; count > 0; --count, block += 22, out += 32) {
    Nibbles(block + 6, block + 2, 16, codes);
    Scale(codes, 32, Half(block), out);
  }
}

void RunQ5_1(const uint8_t* block, int64_t count, float* out) {
  alignas(16) int8_t codes[32];
  for (; count > 0; --count, block += 24, out += 32) {
    Nibbles(block + 8, block + 4, 0, codes);
    ScaleAdd(codes, 32, Half(block), Half(block + 2), out);
  }
}

void RunQ8_0(const uint8_t* block, int64_t count, float* out) {
  for (; count > 0; --count, block += 34, out += 32) {
    Scale(reinterpret_cast<const int8_t*>(block + 2), 32, Half(block), out);
  }
}

void RunIQ4_NL(const uint8_t* block, int64_t count, float* out) {
  alignas(16) int8_t codes[32];
  for (; count > 0; --count, block += 18, out += 32) {
    Lookup(block + 2, kIq4Values, codes);
    Scale(codes, 32, Half(block), out);
  }
}

void RunMXFP4(const uint8_t* block, int64_t count, float* out) {
  alignas(16) int8_t codes[32];
  for (; count > 0; --count, block += 17, out += 32) {
    const uint32_t e = block[0];
    Lookup(block + 1, kFp4Doubled, codes);
    Scale(codes, 32, std::bit_cast<float>(e < 2 ? 0x00200000u << e : (e - 1) << 23), out);
  }
}

// Codes of 2 bits: element i of each 128 is bits i / 32 * 2 of byte i % 32.
HWY_INLINE void Pairs(const uint8_t* qs, int8_t* codes) {
  for (int half = 0; half < 2; ++half, qs += 32, codes += 128) {
    for (int at = 0; at < 32; at += 16) {
      const Vector v = Load(qs + at);
      Store(hn::And(v, Fill(3)), codes + at);
      Store(Field<2>(v, 3), codes + 32 + at);
      Store(Field<4>(v, 3), codes + 64 + at);
      Store(Field<6>(v, 3), codes + 96 + at);
    }
  }
}

void RunQ2_K(const uint8_t* block, int64_t count, float* out) {
  alignas(16) int8_t codes[256];
  for (; count > 0; --count, block += 84, out += 256) {
    const float d = Half(block + 80), dmin = Half(block + 82);
    Pairs(block + 16, codes);
    for (int j = 0; j < 16; ++j) {
      ScaleSub(codes + 16 * j, 16, d * static_cast<float>(block[j] & 15),
               dmin * static_cast<float>(block[j] >> 4), out + 16 * j);
    }
  }
}

// Adds the third bit of Q3_K codes, inverted and as -4: bit j of hmask[i % 32] for sub-block j.
template <int kJ>
HWY_INLINE void ThirdBits(const uint8_t* hmask, int8_t* codes) {
  for (int at = 0; at < 32; at += 16) {
    const Vector low = Load(reinterpret_cast<const uint8_t*>(codes) + kJ * 32 + at);
    const Vector high = Up<2>(Field<kJ>(Load(hmask + at), 1));
    Store(hn::Sub(hn::Or(low, high), Fill(4)), codes + kJ * 32 + at);
  }
}

void RunQ3_K(const uint8_t* block, int64_t count, float* out) {
  alignas(16) int8_t codes[256];
  for (; count > 0; --count, block += 110, out += 256) {
    const float d = Half(block + 108);
    Pairs(block + 32, codes);
    ThirdBits<0>(block, codes);
    ThirdBits<1>(block, codes);
    ThirdBits<2>(block, codes);
    ThirdBits<3>(block, codes);
    ThirdBits<4>(block, codes);
    ThirdBits<5>(block, codes);
    ThirdBits<6>(block, codes);
    ThirdBits<7>(block, codes);
    for (int j = 0; j < 16; ++j) {
      const float scale = d * static_cast<float>(LoadQ3Scale(block + 96, j));
      Scale(codes + 16 * j, 16, scale, out + 16 * j);
    }
  }
}

// Eight sub-blocks of 32 with the 12 bytes of scales and minimums at `scales`.
HWY_INLINE void ScaleMins(const int8_t* codes, const uint8_t* scales, float d, float dmin,
                          float* out) {
  for (int j = 0; j < 8; ++j) {
    const ScaleMin sm = LoadScaleMin(scales, j);
    ScaleSub(codes + 32 * j, 32, d * static_cast<float>(sm.scale),
             dmin * static_cast<float>(sm.min), out + 32 * j);
  }
}

void RunQ4_K(const uint8_t* block, int64_t count, float* out) {
  alignas(16) int8_t codes[256];
  for (; count > 0; --count, block += 144, out += 256) {
    for (int pair = 0; pair < 4; ++pair) {
      for (int at = 0; at < 32; at += 16) {
        const Vector v = Load(block + 16 + pair * 32 + at);
        Store(hn::And(v, Fill(15)), codes + pair * 64 + at);
        Store(Field<4>(v, 15), codes + pair * 64 + 32 + at);
      }
    }
    ScaleMins(codes, block + 4, Half(block), Half(block + 2), out);
  }
}

// Codes of sub-blocks 2 * kPair and the next.
template <int kPair>
HWY_INLINE void FiveBits(const uint8_t* qs, const uint8_t* qh, int8_t* codes) {
  for (int at = 0; at < 32; at += 16) {
    const Vector v = Load(qs + kPair * 32 + at), h = Load(qh + at);
    Store(hn::Or(hn::And(v, Fill(15)), Up<4>(Field<2 * kPair>(h, 1))), codes + kPair * 64 + at);
    Store(hn::Or(Field<4>(v, 15), Up<4>(Field<2 * kPair + 1>(h, 1))), codes + kPair * 64 + 32 + at);
  }
}

void RunQ5_K(const uint8_t* block, int64_t count, float* out) {
  alignas(16) int8_t codes[256];
  for (; count > 0; --count, block += 176, out += 256) {
    FiveBits<0>(block + 48, block + 16, codes);
    FiveBits<1>(block + 48, block + 16, codes);
    FiveBits<2>(block + 48, block + 16, codes);
    FiveBits<3>(block + 48, block + 16, codes);
    ScaleMins(codes, block + 4, Half(block), Half(block + 2), out);
  }
}

// Element v of each 128: nibble v / 64 of ql[v % 64], bits v / 32 * 2 of qh[v % 32].
HWY_INLINE void SixBits(const uint8_t* ql, const uint8_t* qh, int8_t* codes) {
  for (int at = 0; at < 32; at += 16) {
    const Vector a = Load(ql + at), b = Load(ql + 32 + at), h = Load(qh + at);
    const Vector zero = Fill(32);
    const auto put = [&](Vector low, Vector high, int quarter) HWY_ATTR {
      Store(hn::Sub(hn::Or(low, Up<4>(high)), zero), codes + 32 * quarter + at);
    };
    put(hn::And(a, Fill(15)), hn::And(h, Fill(3)), 0);
    put(hn::And(b, Fill(15)), Field<2>(h, 3), 1);
    put(Field<4>(a, 15), Field<4>(h, 3), 2);
    put(Field<4>(b, 15), Field<6>(h, 3), 3);
  }
}

void RunQ6_K(const uint8_t* block, int64_t count, float* out) {
  alignas(16) int8_t codes[256];
  for (; count > 0; --count, block += 210, out += 256) {
    const float d = Half(block + 208);
    SixBits(block, block + 128, codes);
    SixBits(block + 64, block + 160, codes + 128);
    for (int j = 0; j < 16; ++j) {
      const float scale = d * static_cast<float>(static_cast<int8_t>(block[192 + j]));
      Scale(codes + 16 * j, 16, scale, out + 16 * j);
    }
  }
}

void RunIQ4_XS(const uint8_t* block, int64_t count, float* out) {
  alignas(16) int8_t codes[32];
  for (; count > 0; --count, block += 136, out += 256) {
    const float d = Half(block);
    const int scales_h = static_cast<int>(LoadU16(block + 2));
    for (int j = 0; j < 8; ++j) {
      const int low = (block[4 + j / 2] >> (j % 2 * 4)) & 15;
      const int high = (scales_h >> (2 * j)) & 3;
      Lookup(block + 8 + j * 16, kIq4Values, codes);
      Scale(codes, 32, d * static_cast<float>((low | high << 4) - 32), out + 32 * j);
    }
  }
}

// A table for each instruction set, in the order of FindRunDecoder.
const RunDecoder* Decoders() {
  static constexpr RunDecoder kDecoders[] = {
      RunQ4_0, RunQ4_1, RunQ5_0, RunQ5_1,   RunQ8_0,   RunQ2_K,  RunQ3_K,
      RunQ4_K, RunQ5_K, RunQ6_K, RunIQ4_NL, RunIQ4_XS, RunMXFP4,
  };
  return kDecoders;
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace pennyweight {

HWY_EXPORT(Decoders);

RunDecoder FindRunDecoder(BlockType type) {
  constexpr BlockType kTypes[] = {
      BlockType::kQ4_0,   BlockType::kQ4_1,   BlockType::kQ5_0,  BlockType::kQ5_1, BlockType::kQ8_0,
      BlockType::kQ2_K,   BlockType::kQ3_K,   BlockType::kQ4_K,  BlockType::kQ5_K, BlockType::kQ6_K,
      BlockType::kIQ4_NL, BlockType::kIQ4_XS, BlockType::kMXFP4,
  };
  const RunDecoder* decoders = HWY_DYNAMIC_DISPATCH(Decoders)();
  for (size_t i = 0; i < std::size(kTypes); ++i) {
    if (kTypes[i] == type) return decoders[i];
  }
  return nullptr;
}

}  // namespace pennyweight
#endif  // HWY_ONCE
