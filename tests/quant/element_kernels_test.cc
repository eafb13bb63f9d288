#include "quant/element_kernels.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "hwy/highway.h"
#include "quant/codec_scaled.h"
#include "tests/quant/matrices.h"

namespace pennyweight {
namespace {

constexpr ElementSet kSets[] = {ElementSet::kE4M3, ElementSet::kE5M2, ElementSet::kE2M1,
                                ElementSet::kNf4, ElementSet::kFp4};

// What a code decodes to, by the decoders' own tables.
double ValueOf(ElementSet set, int code) {
  switch (set) {
    case ElementSet::kE4M3:
      return SmallFloatValue(DType::kF8E4M3, static_cast<uint8_t>(code));
    case ElementSet::kE5M2:
      return SmallFloatValue(DType::kF8E5M2, static_cast<uint8_t>(code));
    case ElementSet::kE2M1:
      return SmallFloatValue(DType::kF4, static_cast<uint8_t>(code));
    case ElementSet::kNf4:
      return LevelsOf(CodebookSpec::Book::kNf4)[static_cast<size_t>(code)];
    case ElementSet::kFp4:
      return LevelsOf(CodebookSpec::Book::kFp4)[static_cast<size_t>(code)];
  }
  return 0;
}

bool IsBook(ElementSet set) { return set == ElementSet::kNf4 || set == ElementSet::kFp4; }

int CodesOf(ElementSet set) {
  return set == ElementSet::kE4M3 || set == ElementSet::kE5M2 ? 256 : 16;
}

// The nearest element of the sign of v by trying all of them; of two that are as near, for floats
// the even code, for books the lower level (NF4) or the smaller magnitude (FP4).
int ReferenceCode(ElementSet set, float v) {
  const bool nf4 = set == ElementSet::kNf4;
  int best = -1;
  double least = std::numeric_limits<double>::infinity();
  for (int code = 0; code < CodesOf(set); ++code) {
    const double value = ValueOf(set, code);
    if (!std::isfinite(value)) continue;
    if (!nf4 && std::signbit(value) != std::signbit(v)) continue;
    const double away = std::abs(static_cast<double>(v) - value);
    bool wins = away < least;
    if (away == least) {
      if (!IsBook(set)) {
        wins = code % 2 == 0;
      } else {
        wins = nf4 ? value < ValueOf(set, best) : std::abs(value) < std::abs(ValueOf(set, best));
      }
    }
    if (!wins) continue;
    best = code;
    least = away;
  }
  return best;
}

// Values of all magnitudes that matter, all elements, all midpoints and their neighbours.
std::vector<float> Probes(ElementSet set, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<float> probes = {0.0f, -0.0f, 1e-30f, -1e-42f, 1e10f, -1e10f};
  const float most = LargestElement(set);
  std::vector<double> values;
  for (int code = 0; code < CodesOf(set); ++code) {
    if (std::isfinite(ValueOf(set, code))) values.push_back(ValueOf(set, code));
  }
  std::sort(values.begin(), values.end());
  for (size_t i = 0; i + 1 < values.size(); ++i) {
    const auto middle = static_cast<float>((values[i] + values[i + 1]) / 2);
    // NF4's midpoints are sums of floats that need not be exact: both sides stand a bit off.
    const float slack = IsBook(set) ? 1e-6f : 0.0f;
    for (const float v :
         {static_cast<float>(values[i]), middle - slack, middle + slack,
          std::nextafter(middle, 1e9f) + slack, std::nextafter(middle, -1e9f) - slack}) {
      if (!IsBook(set) || v != middle) probes.push_back(v);
    }
  }
  std::uniform_real_distribution<float> exponent(-20, 1.2f);
  for (int i = 0; i < 4000; ++i) {
    const float v = most * std::exp2(exponent(rng));
    probes.push_back(rng() % 2 == 0 ? v : -v);
  }
  return probes;
}

// Runs `body` on each instruction set that the processor has.
template <class Body>
void OnEveryTarget(const Body& body) {
  int tried = 0;
  for (int64_t targets = hwy::SupportedTargets(); targets != 0; targets &= targets - 1) {
    hwy::SetSupportedTargetsForTest(targets & -targets);
    hwy::GetChosenTarget().Update(targets & -targets);
    ++tried;
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  MESSAGE("instruction sets tried: ", tried);
  CHECK(tried > 0);
}

TEST_CASE("codes are the nearest elements, on every instruction set") {
  const uint32_t seed = std::random_device()();
  CAPTURE(seed);
  OnEveryTarget([&] {
    for (const ElementSet set : kSets) {
      const std::vector<float> probes = Probes(set, seed);
      std::vector<uint8_t> codes(probes.size());
      const float one = 1;
      const auto n = static_cast<int64_t>(probes.size());
      EncodeGroups(set, probes.data(), n, n, &one, codes.data());
      int wrong = 0;
      for (size_t i = 0; i < probes.size(); ++i) {
        if (codes[i] != ReferenceCode(set, probes[i])) {
          if (wrong++ == 0) {
            MESSAGE("set ", static_cast<int>(set), ": ", probes[i], " became ",
                    static_cast<int>(codes[i]), ", not ", ReferenceCode(set, probes[i]));
          }
        }
      }
      CHECK(wrong == 0);
    }
  });
}

TEST_CASE("groups, rests of vectors and scales") {
  const uint32_t seed = std::random_device()();
  CAPTURE(seed);
  std::mt19937 rng(seed);
  OnEveryTarget([&] {
    for (const ElementSet set : kSets) {
      for (const int64_t n : {1, 7, 16, 37, 64, 130}) {
        for (const int64_t group : {int64_t{5}, int64_t{16}, int64_t{64}, n}) {
          const std::vector<float> x = RandomWeights(n, static_cast<uint32_t>(rng()));
          const int64_t groups = (n + group - 1) / group;
          std::vector<uint32_t> most(static_cast<size_t>(groups));
          GroupMagnitudes(x.data(), n, group, most.data());
          std::vector<float> scales;
          for (int64_t g = 0; g < groups; ++g) {
            float want = 0;
            for (int64_t i = g * group; i < std::min(n, (g + 1) * group); ++i) {
              want = std::max(want, std::abs(x[static_cast<size_t>(i)]));
            }
            CHECK(std::bit_cast<float>(most[static_cast<size_t>(g)]) == want);
            scales.push_back(want / LargestElement(set) * 0.9f);
          }
          std::vector<uint8_t> codes(static_cast<size_t>(n) + 1, 0xa5);
          EncodeGroups(set, x.data(), n, group, scales.data(), codes.data());
          for (int64_t i = 0; i < n; ++i) {
            const auto at = static_cast<size_t>(i);
            CHECK(codes[at] == ReferenceCode(set, x[at] / scales[static_cast<size_t>(i / group)]));
          }
          CHECK(codes.back() == 0xa5);
        }
      }
    }
  });
}

TEST_CASE("NaN and infinities are above every magnitude") {
  OnEveryTarget([] {
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      for (const size_t at : {0, 15, 16, 20}) {
        std::vector<float> x = RandomWeights(21, 3);
        x[at] = bad;
        uint32_t bits = 0;
        GroupMagnitudes(x.data(), 21, 21, &bits);
        CHECK(bits >= 0x7f800000u);
      }
    }
  });
}

float SumChains(const float* c) {
  return ((c[0] + c[4]) + (c[2] + c[6])) + ((c[1] + c[5]) + (c[3] + c[7]));
}

TEST_CASE("sums have the same bits as plain code on every instruction set") {
  OnEveryTarget([] {
    for (const ElementSet set : kSets) {
      for (const int64_t n : {8, 16, 64, 136}) {
        std::vector<float> x = RandomWeights(n, static_cast<uint32_t>(n), 1);
        std::vector<float> h = RandomWeights(n, 5, 1), hx(x.size());
        for (float& v : h) v *= v;
        for (size_t i = 0; i < x.size(); ++i) hx[i] = h[i] * x[i];
        const float scale = 1.7f / LargestElement(set);
        float a[8] = {}, b[8] = {}, e[8] = {};
        for (size_t i = 0; i < x.size(); ++i) {
          const auto q = static_cast<float>(ValueOf(set, ReferenceCode(set, x[i] / scale)));
          a[i % 8] += hx[i] * q;
          b[i % 8] += h[i] * q * q;
          const float miss = x[i] - q * scale;
          e[i % 8] += h[i] * miss * miss;
        }
        const KernelBlock block{x.data(), h.data(), hx.data(), n};
        const ElementSums sums = SumElements(set, block, scale);
        CHECK(sums.a == SumChains(a));
        CHECK(sums.b == SumChains(b));
        CHECK(SumElementErrors(set, block, scale) == SumChains(e));
      }
    }
  });
}

TEST_CASE("halves are packed, the first one low") {
  OnEveryTarget([] {
    for (const int64_t n : {2, 30, 64, 126}) {
      std::mt19937 rng(static_cast<uint32_t>(n));
      std::vector<uint8_t> codes(static_cast<size_t>(n));
      for (uint8_t& c : codes) c = static_cast<uint8_t>(rng() % 16);
      std::vector<uint8_t> bytes(codes.size() / 2);
      PackHalves(codes.data(), n, bytes.data());
      for (size_t i = 0; i < bytes.size(); ++i) {
        CHECK((bytes[i] & 15) == codes[2 * i]);
        CHECK((bytes[i] >> 4) == codes[2 * i + 1]);
      }
    }
  });
}

}  // namespace
}  // namespace pennyweight
