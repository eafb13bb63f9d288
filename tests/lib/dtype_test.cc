#include "lib/dtype.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "hwy/highway.h"

namespace pennyweight {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// The definition of binary16, by arithmetic alone.
double F16ByDefinition(uint16_t bits) {
  const int sign = bits >> 15;
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  double value;
  if (exponent == 31) {
    value = mantissa == 0 ? HUGE_VAL : std::nan("");
  } else if (exponent == 0) {
    value = std::ldexp(mantissa, -24);
  } else {
    value = std::ldexp(1024 + mantissa, exponent - 25);
  }
  return sign != 0 ? -value : value;
}

// The positive code c of a format with increasing finite values whose value is nearest to x >= 0,
// ties to the even code; `infinity` is the code of infinity, which stands for the next power of 2.
template <class Value>
uint16_t NearestCode(double x, uint16_t infinity, const Value& value) {
  uint16_t low = 0;
  uint16_t high = infinity;
  while (high - low > 1) {
    const auto middle = static_cast<uint16_t>((low + high) / 2);
    (value(middle) <= x ? low : high) = middle;
  }
  const double below = x - value(low);
  const double above = value(high) - x;
  if (below != above) return below < above ? low : high;
  return low % 2 == 0 ? low : high;
}

uint16_t F16Reference(float x) {
  const auto value = [](uint16_t code) { return code == 0x7c00 ? 65536.0 : F16ByDefinition(code); };
  const double magnitude = std::fabs(static_cast<double>(x));
  const uint16_t code =
      magnitude >= 65536.0 ? uint16_t{0x7c00} : NearestCode(magnitude, uint16_t{0x7c00}, value);
  return static_cast<uint16_t>(code | (std::signbit(x) ? 0x8000 : 0));
}

uint16_t BF16Reference(float x) {
  const auto value = [](uint16_t code) {
    return code == 0x7f80 ? std::ldexp(1.0, 128)
                          : static_cast<double>(std::bit_cast<float>(uint32_t{code} << 16));
  };
  const double magnitude = std::fabs(static_cast<double>(x));
  const uint16_t code =
      std::isinf(x) ? uint16_t{0x7f80} : NearestCode(magnitude, uint16_t{0x7f80}, value);
  return static_cast<uint16_t>(code | (std::signbit(x) ? 0x8000 : 0));
}

// Floats that a rounding mistake would show on: every exponent, ties and their neighbours.
std::vector<float> HardFloats() {
  std::vector<float> values;
  std::mt19937 random(20240917);
  for (uint32_t exponent = 0; exponent < 255; ++exponent) {
    for (int i = 0; i < 400; ++i) {
      uint32_t mantissa = random() & 0x7fffffu;
      // Dropped bits of F16 (13) and BF16 (16): exactly a half, one more, one less, all, none.
      const uint32_t dropped = i % 2 == 0 ? 13 : 16;
      const uint32_t half = 1u << (dropped - 1);
      const uint32_t kept = mantissa & ~((1u << dropped) - 1);
      if (i % 12 < 2) mantissa = kept | half;
      if (i % 12 == 2 || i % 12 == 3) mantissa = kept | (half + 1);
      if (i % 12 == 4 || i % 12 == 5) mantissa = kept | (half - 1);
      if (i % 12 == 6 || i % 12 == 7) mantissa = 0x7fffffu & ~(static_cast<uint32_t>(i) % 3);
      const uint32_t sign = static_cast<uint32_t>(random() & 1u) << 31;
      values.push_back(std::bit_cast<float>(sign | (exponent << 23) | mantissa));
    }
  }
  return values;
}

TEST_CASE("dtype names and sizes") {
  for (int i = 0; i <= static_cast<int>(DType::kU64); ++i) {
    const auto dtype = static_cast<DType>(i);
    CHECK(DTypeFromName(DTypeName(dtype)) == dtype);
  }
  CHECK(DTypeName(DType::kBF16) == "BF16");
  CHECK(DTypeName(DType::kF8E4M3Fnuz) == "F8_E4M3FNUZ");
  CHECK(DTypeName(DType::kF6E2M3) == "F6_E2M3");
  CHECK(DTypeName(DType::kU64) == "U64");
  CHECK(DTypeBits(DType::kF4) == 4);
  CHECK(DTypeBits(DType::kF6E3M2) == 6);
  CHECK(DTypeBits(DType::kF8E8M0) == 8);
  CHECK(DTypeBits(DType::kF16) == 16);
  CHECK(DTypeBits(DType::kF32) == 32);
  CHECK(DTypeBits(DType::kC64) == 64);
  for (const char* bad : {"", "f32", "F32 ", "F128", "BF1", "F8"}) {
    CHECK_FALSE(DTypeFromName(bad).has_value());
  }
  CHECK(IsFloatDType(DType::kBF16));
  CHECK_FALSE(IsFloatDType(DType::kF64));
  CHECK_FALSE(IsFloatDType(DType::kI8));
}

TEST_CASE("every F16 code decodes to its definition and comes back") {
  int wrong = 0;
  for (uint32_t code = 0; code < 65536; ++code) {
    const auto bits = static_cast<uint16_t>(code);
    const float value = F16ToF32(bits);
    const double expected = F16ByDefinition(bits);
    if (std::isnan(expected)) {
      // The sign and the payload stay; a signalling NaN becomes a quiet one.
      wrong += !std::isnan(value) || F32ToF16(value) != (bits | 0x0200);
    } else {
      wrong += static_cast<double>(value) != expected || std::signbit(value) != (bits >> 15 != 0) ||
               F32ToF16(value) != bits;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("every BF16 code decodes to the upper half of a float and comes back") {
  int wrong = 0;
  for (uint32_t code = 0; code < 65536; ++code) {
    const auto bits = static_cast<uint16_t>(code);
    const float value = BF16ToF32(bits);
    wrong += std::bit_cast<uint32_t>(value) != code << 16;
    wrong += F32ToBF16(value) != (std::isnan(value) ? bits | 0x0040 : bits);
  }
  CHECK(wrong == 0);
}

TEST_CASE("to 16 bits rounds to nearest even") {
  int wrong_f16 = 0;
  int wrong_bf16 = 0;
  for (const float x : HardFloats()) {
    wrong_f16 += F32ToF16(x) != F16Reference(x);
    wrong_bf16 += F32ToBF16(x) != BF16Reference(x);
  }
  CHECK(wrong_f16 == 0);
  CHECK(wrong_bf16 == 0);

  // Between each pair of neighbouring F16 values: the tie, and one float to either side of it.
  int wrong_ties = 0;
  for (uint16_t code = 0; code < 0x7c00; ++code) {
    const double below = F16ByDefinition(code);
    const double above =
        code == 0x7bff ? 65536.0 : F16ByDefinition(static_cast<uint16_t>(code + 1));
    const auto tie = static_cast<float>((below + above) / 2);
    wrong_ties += F32ToF16(tie) != code + (code & 1);
    wrong_ties += F32ToF16(std::nextafter(tie, 0.0f)) != code;
    wrong_ties += F32ToF16(std::nextafter(tie, kInf)) != code + 1;
    wrong_ties += F32ToF16(-tie) != (0x8000 | (code + (code & 1)));
  }
  CHECK(wrong_ties == 0);
}

TEST_CASE("edges of the 16-bit types") {
  CHECK(F32ToF16(65504.0f) == 0x7bff);
  CHECK(F32ToF16(65519.99f) == 0x7bff);
  CHECK(F32ToF16(65520.0f) == 0x7c00);
  CHECK(F32ToF16(1e30f) == 0x7c00);
  CHECK(F32ToF16(-kInf) == 0xfc00);
  CHECK(F32ToF16(std::ldexp(1.0f, -25)) == 0x0000);  // a tie with zero
  CHECK(F32ToF16(std::ldexp(1.5f, -25)) == 0x0001);
  CHECK(F32ToF16(-0.0f) == 0x8000);
  CHECK(F32ToBF16(std::numeric_limits<float>::max()) == 0x7f80);
  CHECK(F32ToBF16(-kInf) == 0xff80);
  CHECK(F32ToBF16(std::bit_cast<float>(0x3f808000u)) == 0x3f80);  // tie to even, down
  CHECK(F32ToBF16(std::bit_cast<float>(0x3f818000u)) == 0x3f82);  // tie to even, up
  CHECK(F32ToBF16(std::bit_cast<float>(0x3f808001u)) == 0x3f81);  // truncation would say 3f80
  // NaN payloads in the dropped bits only: must not turn into infinity, nor wrap.
  CHECK(F32ToBF16(std::bit_cast<float>(0x7f800001u)) == 0x7fc0);
  CHECK(F32ToBF16(std::bit_cast<float>(0xffffffffu)) == 0xffff);
  CHECK(F32ToF16(std::bit_cast<float>(0x7f800001u)) == 0x7e00);
  CHECK(F32ToF16(std::bit_cast<float>(0xffffffffu)) == 0xffff);
}

TEST_CASE("arrays of every F16 and BF16 code, and of hard floats, are the single values' bits") {
  std::vector<uint16_t> codes(65536);
  for (uint32_t i = 0; i < 65536; ++i) codes[i] = static_cast<uint16_t>(i * 40503);  // every code
  std::vector<float> values = HardFloats();
  for (uint32_t code = 0; code < 65536; ++code) {
    values.push_back(F16ToF32(static_cast<uint16_t>(code)));
    values.push_back(std::bit_cast<float>(code << 16 | 0x1234u));  // NaN payloads in the low bits
  }
  values.push_back(kInf);
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    CAPTURE(hwy::TargetName(target));
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
      const bool f16 = dtype == DType::kF16;
      std::vector<float> widened(codes.size());
      DecodeToFloat(dtype, codes.data(), widened.data(), codes.size());
      size_t wrong = 0;
      for (size_t i = 0; i < codes.size(); ++i) {
        const float want = f16 ? F16ToF32(codes[i]) : BF16ToF32(codes[i]);
        wrong += std::bit_cast<uint32_t>(widened[i]) != std::bit_cast<uint32_t>(want);
      }
      CHECK(wrong == 0);
      std::vector<uint16_t> narrowed(values.size());
      EncodeFromFloat(dtype, values.data(), narrowed.data(), values.size());
      wrong = 0;
      for (size_t i = 0; i < values.size(); ++i) {
        wrong += narrowed[i] != (f16 ? F32ToF16(values[i]) : F32ToBF16(values[i]));
      }
      CHECK(wrong == 0);
    }
  }
  hwy::SetSupportedTargetsForTest(0);
}

TEST_CASE("arrays convert like single values, at any length and alignment") {
  const std::vector<float> values = HardFloats();
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const size_t width = static_cast<size_t>(DTypeBits(dtype)) / 8;
    for (const size_t count : {size_t{0}, size_t{1}, size_t{7}, size_t{33}, values.size()}) {
      std::vector<unsigned char> stored(count * width + 2, 0xa5);
      unsigned char* unaligned = stored.data() + 1;
      EncodeFromFloat(dtype, values.data(), unaligned, count);
      CHECK(stored[0] == 0xa5);
      CHECK(stored.back() == 0xa5);
      std::vector<float> decoded(count + 1, 42.0f);
      DecodeToFloat(dtype, unaligned, decoded.data(), count);
      CHECK(decoded[count] == 42.0f);
      size_t wrong = 0;
      for (size_t i = 0; i < count; ++i) {
        const float expected = RoundThrough(dtype, values[i]);
        wrong += std::bit_cast<uint32_t>(decoded[i]) != std::bit_cast<uint32_t>(expected);
      }
      CHECK(wrong == 0);
    }
  }
  CHECK(RoundThrough(DType::kF16, 0.1f) == 0.0999755859375f);
  CHECK(RoundThrough(DType::kBF16, 0.1f) == 0.10009765625f);
  CHECK(RoundThrough(DType::kF32, 0.1f) == 0.1f);
}

TEST_CASE("casts of arrays give the same bits on every instruction set") {
  std::vector<float> values = HardFloats();
  std::mt19937 rng(99);
  for (int i = 0; i < 200000; ++i) {
    values.push_back(std::bit_cast<float>(static_cast<uint32_t>(rng())));
  }
  int64_t targets = hwy::SupportedTargets();
  for (; targets != 0; targets &= targets - 1) {
    hwy::SetSupportedTargetsForTest(targets & -targets);
    hwy::GetChosenTarget().Update(targets & -targets);
    CAPTURE(hwy::TargetName(targets & -targets));
    std::vector<uint16_t> f16(values.size()), bf16(values.size());
    EncodeFromFloat(DType::kF16, values.data(), f16.data(), values.size());
    EncodeFromFloat(DType::kBF16, values.data(), bf16.data(), values.size());
    size_t wrong = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      wrong += f16[i] != F32ToF16(values[i]);
      wrong += bf16[i] != F32ToBF16(values[i]);
    }
    CHECK(wrong == 0);
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace
}  // namespace pennyweight
