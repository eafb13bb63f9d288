#include "quant/value_scan.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "hwy/highway.h"
#include "lib/dtype.h"

namespace pennyweight {
namespace {

constexpr DType kAll[] = {DType::kBool,   DType::kF4,         DType::kF6E2M3,     DType::kF6E3M2,
                          DType::kU8,     DType::kI8,         DType::kF8E5M2,     DType::kF8E4M3,
                          DType::kF8E8M0, DType::kF8E4M3Fnuz, DType::kF8E5M2Fnuz, DType::kI16,
                          DType::kU16,    DType::kF16,        DType::kBF16,       DType::kI32,
                          DType::kU32,    DType::kF32,        DType::kC64,        DType::kF64,
                          DType::kI64,    DType::kU64};

uint64_t Load(const uint8_t* data, size_t i, size_t bytes) {
  uint64_t value = 0;
  std::memcpy(&value, data + i * bytes, bytes);
  return value;
}

ValueFacts Reference(const uint8_t* data, size_t count, const SpecialValues& s, uint64_t first) {
  ValueFacts facts;
  const uint64_t width = s.bytes == 8 ? ~uint64_t{0} : (uint64_t{1} << (8 * s.bytes)) - 1;
  for (size_t i = 0; i < count; ++i) {
    const uint64_t v = Load(data, i, s.bytes);
    facts.any |= v;
    facts.differ |= (v ^ first) & width;
    facts.largest = std::max(facts.largest, (v ^ s.flip) & s.mask);
  }
  return facts;
}

template <class F>
void OnEveryTarget(F body) {
  int tried = 0;
  for (int64_t targets = hwy::SupportedTargets(); targets != 0; targets &= targets - 1) {
    hwy::SetSupportedTargetsForTest(targets & -targets);
    hwy::GetChosenTarget().Update(targets & -targets);
    body();
    ++tried;
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  CHECK(tried > 0);
}

TEST_CASE("the scan gives the facts of plain code, on every instruction set and at any address") {
  std::mt19937_64 random(71);
  std::vector<uint8_t> bytes(4096 + 64);
  OnEveryTarget([&] {
    for (const DType dtype : kAll) {
      const SpecialValues special = SpecialValuesOf(dtype);
      for (const size_t count : {0, 1, 2, 3, 7, 8, 31, 32, 33, 64, 127, 129, 500}) {
        // Few bits in few places, so that each fact has its cases.
        const uint64_t common = random();
        for (size_t i = 0; i < bytes.size(); i += 8) std::memcpy(&bytes[i], &common, 8);
        for (int flips = static_cast<int>(random() % 4); flips > 0; --flips) {
          bytes[random() % bytes.size()] ^= static_cast<uint8_t>(1u << (random() % 8));
        }
        const uint8_t* at = bytes.data() + random() % 9;
        const uint64_t first = Load(at, 0, special.bytes);
        const ValueFacts expected = Reference(at, count, special, first);
        const ValueFacts facts = ScanValues(at, count, special, first);
        CAPTURE(DTypeName(dtype));
        CAPTURE(count);
        CHECK(facts.any == expected.any);
        CHECK(facts.differ == expected.differ);
        CHECK(facts.largest == expected.largest);
      }
    }
  });
}

// The values of E4M3 and E5M2 by their definition.
bool IsSpecial8(DType dtype, int code) {
  switch (dtype) {
    case DType::kF8E4M3:
      return (code & 0x7F) == 0x7F;
    case DType::kF8E5M2:
      return (code & 0x7C) == 0x7C;
    case DType::kF8E8M0:
      return code == 0xFF;
    default:  // FNUZ
      return code == 0x80;
  }
}

TEST_CASE("every code of 8 and 16 bits is special just when its value is") {
  for (const DType dtype :
       {DType::kF8E4M3, DType::kF8E5M2, DType::kF8E8M0, DType::kF8E4M3Fnuz, DType::kF8E5M2Fnuz}) {
    const SpecialValues special = SpecialValuesOf(dtype);
    for (int code = 0; code < 256; ++code) {
      const uint8_t byte = static_cast<uint8_t>(code);
      CAPTURE(DTypeName(dtype));
      CAPTURE(code);
      CHECK((ScanValues(&byte, 1, special, 0).largest >= special.least) == IsSpecial8(dtype, code));
    }
  }
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    const SpecialValues special = SpecialValuesOf(dtype);
    for (int code = 0; code < 65536; ++code) {
      const uint16_t bits = static_cast<uint16_t>(code);
      const float value = dtype == DType::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
      const uint64_t largest = ScanValues(&bits, 1, special, 0).largest;
      const bool same = (largest >= special.least) == !std::isfinite(value) &&
                        (largest == special.infinity) == std::isinf(value);
      if (!same) FAIL_CHECK("code " << code);
    }
  }
}

TEST_CASE("what fits F16 is what comes back from it") {
  std::mt19937 random(5);
  const float inf = std::numeric_limits<float>::infinity();
  const float edges[] = {
      0.0f,       -0.0f,      65504.0f, 65505.0f,     65536.0f,      0x1p-14f,     0x1p-24f,
      0x1p-25f,   0x1.8p-24f, 0x1p-15f, 0x1.004p-15f, 0x1.ffcp-15f,  0x1.ffep-15f, 1.0f,
      0x1.004p0f, 0x1.002p0f, inf,      -inf,         std::nanf(""), 1e-45f,       3.4e38f};
  OnEveryTarget([&] {
    for (const float edge : edges) {
      for (const size_t place : {0, 5, 16, 38}) {
        std::vector<float> values(39, 0.5f);
        values[place] = edge;
        const bool expected = F16ToF32(F32ToF16(edge)) == edge;
        CAPTURE(edge);
        CHECK(AllFitF16(values.data(), values.size()) == expected);
      }
    }
    // Every F16, subnormal ones too, and neighbours of some.
    std::vector<float> all;
    for (int code = 0; code < 65536; ++code) {
      const float value = F16ToF32(static_cast<uint16_t>(code));
      if (!std::isnan(value)) all.push_back(value);
    }
    CHECK(AllFitF16(all.data(), all.size()));
    for (int i = 0; i < 200; ++i) {
      float value = F16ToF32(static_cast<uint16_t>(random() % 0x7C00));
      value = std::nextafterf(value, inf);
      CHECK_FALSE(AllFitF16(&value, 1));
      std::vector<float> many(64, value);
      CHECK_FALSE(AllFitF16(many.data(), many.size()));
    }
  });
}

}  // namespace
}  // namespace pennyweight
