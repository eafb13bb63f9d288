// The encoders against the least error that their types allow, and that least error against search
// without thought.
#include "tests/bench/error_bounds.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/dtype.h"
#include "quant/codec.h"
#include "quant/method.h"
#include "quant/mix.h"
#include "tests/quant/matrices.h"

namespace pennyweight {
namespace {

std::vector<float> RandomImportance(int64_t count, uint32_t seed) {
  std::mt19937 rng(seed);
  std::lognormal_distribution<float> lognormal(0, 1);
  std::vector<float> importance(static_cast<size_t>(count));
  for (float& h : importance) h = lognormal(rng);
  return importance;
}

TEST_CASE("the least error of one scale is that of the best of all stored scales") {
  const std::vector<float> w = RandomWeights(32, 3);
  const std::vector<float> importance = RandomImportance(32, 4);
  struct Range {
    BlockType type;
    int lo, hi;
  };
  for (const Range& range : {Range{BlockType::kQ4_0, -8, 7}, Range{BlockType::kQ8_0, -128, 127}}) {
    double best = 1e30;
    for (int bits = 0; bits < 0x10000; ++bits) {
      const double scale = F16ToF32(static_cast<uint16_t>(bits));
      if (!std::isfinite(scale) || scale == 0) continue;
      double error = 0;
      for (size_t i = 0; i < 32; ++i) {
        const double q = std::clamp<double>(std::nearbyint(w[i] / scale), range.lo, range.hi);
        error += importance[i] * (w[i] - scale * q) * (w[i] - scale * q);
      }
      best = std::min(best, error);
    }
    const auto least = LeastError(Encoding::Block(range.type), w.data(), 1, 32, importance.data());
    REQUIRE(least.has_value());
    CHECK(*least == doctest::Approx(best).epsilon(1e-9));
  }
}

// The best of many starts, each refined by turns of nearest codes and least squares.
double BestOfManyStarts(std::span<const float> w, std::span<const float> importance, int levels) {
  std::mt19937 rng(17);
  const auto [min, max] = std::minmax_element(w.begin(), w.end());
  std::uniform_real_distribution<double> uniform(0, 1);
  double best = 1e30;
  for (int start = 0; start < 3000; ++start) {
    double scale = (double{*max} - *min) / levels * (0.2 + 1.3 * uniform(rng));
    double offset = *min + (*max - *min) * (0.6 * uniform(rng) - 0.1);
    for (int turn = 0; turn < 8; ++turn) {
      double h = 0, q = 0, qq = 0, x = 0, xq = 0, error = 0;
      for (size_t i = 0; i < w.size(); ++i) {
        const double code = std::clamp<double>(std::nearbyint((w[i] - offset) / scale), 0, levels);
        const double e = w[i] - scale * code - offset;
        error += importance[i] * e * e;
        h += importance[i];
        q += importance[i] * code;
        qq += importance[i] * code * code;
        x += importance[i] * w[i];
        xq += importance[i] * code * w[i];
      }
      best = std::min(best, error);
      const double det = qq * h - q * q;
      if (det <= 1e-9 * qq * h) break;
      scale = (xq * h - x * q) / det;
      offset = (x - scale * q) / h;
    }
  }
  return best;
}

TEST_CASE("the least error of scale and offset is what the best of many starts finds") {
  const std::vector<float> w = RandomWeights(256, 5);
  const std::vector<float> importance = RandomImportance(256, 6);
  struct Range {
    BlockType type;
    size_t width;
    int levels;
    double slack;  // of q2_k all codes are tried, of the others a grid of scales
  };
  for (const Range& range :
       {Range{BlockType::kQ2_K, 16, 3, 1e-9}, Range{BlockType::kQ4_K, 32, 15, 5e-3}}) {
    double best = 0;
    for (size_t at = 0; at < 256; at += range.width) {
      best += BestOfManyStarts(std::span(w).subspan(at, range.width),
                               std::span(importance).subspan(at, range.width), range.levels);
    }
    const auto least = LeastError(Encoding::Block(range.type), w.data(), 1, 256, importance.data());
    REQUIRE(least.has_value());
    CHECK(*least <= best * (1 + range.slack));
    CHECK(*least >= best * 0.99);  // many starts do not find everything
  }
}

TEST_CASE("no encoder is below the least error of its type, and rtn is close to it") {
  // Of the others, the least error asks for more than their scales can give.
  constexpr std::string_view kClose[] = {"int4", "int8", "q2_k", "q3_k", "q4_0", "q4_1",
                                         "q4_k", "q5_0", "q5_1", "q5_k", "q6_k", "q8_0"};
  constexpr int64_t kRows = 8, kCols = 512;
  const std::vector<float> w = RandomWeights(kRows * kCols, 7);
  const std::vector<float> importance = RandomImportance(kCols, 8);
  const std::vector<float> ones(kCols, 1);
  IntegerSpec integer;
  integer.group_size = 128;
  for (const std::string& name : TypeNames()) {
    CAPTURE(name);
    const auto encoding = FindType(name, integer);
    REQUIRE(encoding.has_value());
    for (const std::vector<float>& h : {ones, importance}) {
      const auto least = LeastError(*encoding, w.data(), kRows, kCols, h.data());
      EncodedTensor out;
      const Status status =
          QuantizeRtn(Context(), *encoding, w.data(), kRows, kCols, h, ScaleSearch::kSearch, &out);
      if (!least || !status.ok()) continue;
      std::vector<float> decoded(w.size());
      DecodeRows(out, 0, kRows, decoded.data());
      double error = 0;
      for (size_t i = 0; i < w.size(); ++i) {
        const double e = static_cast<double>(decoded[i]) - w[i];
        error += h[i % kCols] * e * e;
      }
      CHECK(error >= *least * (1 - 1e-6));
      if (std::find(std::begin(kClose), std::end(kClose), name) != std::end(kClose)) {
        CHECK(std::sqrt(error / *least) < 1.1);
      }
    }
  }
}

TEST_CASE("the least error is not known of vector codebooks and of rows that do not fit") {
  const std::vector<float> w = RandomWeights(256, 9);
  CHECK_FALSE(LeastError(Encoding::Block(BlockType::kIQ2_XS), w.data(), 1, 256, nullptr));
  CHECK_FALSE(LeastError(Encoding::Block(BlockType::kQ2_K), w.data(), 4, 64, nullptr));
  CHECK_FALSE(LeastError(Encoding::Plain(DType::kF16), w.data(), 1, 256, nullptr));
  CHECK(LeastError(Encoding::Block(BlockType::kQ4_0), w.data(), 4, 64, nullptr).value() > 0);
}

}  // namespace
}  // namespace pennyweight
