// Q2_K Q4_K Q5_K: what the search does beyond the contract of all grids (grid_test.cc).
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "quant/codec.h"
#include "quant/grid.h"
#include "tests/quant/matrices.h"

namespace pennyweight {
namespace {

constexpr BlockType kTypes[] = {BlockType::kQ2_K, BlockType::kQ4_K, BlockType::kQ5_K};

using Bytes = std::vector<uint8_t>;

// kLanes rows of one block, in lanes.
LaneArray<float> Rows(uint32_t seed, float size = 0.05f) {
  LaneArray<float> lanes(256 * kLanes);
  const std::vector<float> w = RandomWeights(256 * kLanes, seed, size);
  std::copy(w.begin(), w.end(), lanes.data());
  return lanes;
}

Bytes EncodeLanes(BlockType type, const LaneArray<float>& w, const std::vector<float>& h,
                  ScaleSearch search, Effort effort) {
  const auto grid = MakeGrid(Encoding::Block(type), 256, effort);
  Bytes out(static_cast<size_t>(grid->packed_bytes() * kLanes));
  grid->Encode(w.data(), h.data(), search, out.data());
  return out;
}

Bytes BlockOf(const Bytes& blocks, int64_t lane) {
  const auto n = static_cast<std::ptrdiff_t>(blocks.size()) / kLanes;
  return Bytes(blocks.begin() + lane * n, blocks.begin() + (lane + 1) * n);
}

std::vector<float> Decode(BlockType type, const Bytes& blocks, int64_t lane) {
  EncodedTensor one = EncodedTensor::Allocate(Encoding::Block(type), 1, 256);
  StorePacked(BlockOf(blocks, lane).data(), 0, 0, &one);
  std::vector<float> decoded(256);
  DecodeRows(one, 0, 1, decoded.data());
  return decoded;
}

// Sum of h (w - decoded)^2 over all lanes.
double ErrorOf(BlockType type, const LaneArray<float>& w, const std::vector<float>& h,
               const Bytes& blocks) {
  double error = 0;
  for (int64_t l = 0; l < kLanes; ++l) {
    const std::vector<float> decoded = Decode(type, blocks, l);
    for (int64_t i = 0; i < 256; ++i) {
      const auto at = static_cast<size_t>(i);
      error += h[at] * std::pow(static_cast<double>(w[i * kLanes + l]) - decoded[at], 2);
    }
  }
  return error;
}

std::vector<float> UnequalImportance(uint32_t seed) {
  std::vector<float> h = RandomWeights(256, seed, 1);
  for (float& v : h) v = std::exp(v);
  std::vector<float> normal(256);
  NormalizeImportance(h, 256, normal.data());
  return normal;
}

TEST_CASE("more effort, less error; the least effort is better than min/max") {
  for (const BlockType type : kTypes) {
    CAPTURE(TraitsOf(type).name);
    for (const bool plain : {true, false}) {
      CAPTURE(plain);
      double error[4] = {};
      for (uint32_t seed = 0; seed < 8; ++seed) {
        const LaneArray<float> w = Rows(seed);
        const std::vector<float> h =
            plain ? std::vector<float>(256, 1.0f) : UnequalImportance(seed + 40);
        const auto add = [&](size_t k, ScaleSearch search, Effort effort) {
          error[k] += ErrorOf(type, w, h, EncodeLanes(type, w, h, search, effort));
        };
        add(0, ScaleSearch::kMinMax, Effort::kNormal);
        add(1, ScaleSearch::kSearch, Effort::kFast);
        add(2, ScaleSearch::kSearch, Effort::kNormal);
        add(3, ScaleSearch::kSearch, Effort::kBest);
      }
      MESSAGE("error over min/max: ", error[1] / error[0], " ", error[2] / error[0], " ",
              error[3] / error[0]);
      CHECK(error[1] < 0.95 * error[0]);
      CHECK(error[2] < 0.99 * error[1]);
      CHECK(error[3] < 0.999 * error[2]);
      CHECK(error[3] > 0.2 * error[0]);  // the same bits cannot be that much better
    }
  }
}

TEST_CASE("equal importance has passes of its own, which give the same bytes") {
  // All columns doubled leave every choice as it was, but are not known to be equal.
  const std::vector<float> ones(256, 1.0f), twos(256, 2.0f);
  for (const BlockType type : kTypes) {
    CAPTURE(TraitsOf(type).name);
    for (uint32_t seed = 0; seed < 4; ++seed) {
      const LaneArray<float> w = Rows(seed);
      CHECK(EncodeLanes(type, w, ones, ScaleSearch::kSearch, Effort::kBest) ==
            EncodeLanes(type, w, twos, ScaleSearch::kSearch, Effort::kBest));
    }
  }
}

TEST_CASE("weights all below zero, with columns of very unequal importance") {
  // The range is about their mean, not about zero.
  for (const BlockType type : kTypes) {
    CAPTURE(TraitsOf(type).name);
    double error[2] = {};
    for (uint32_t seed = 0; seed < 8; ++seed) {
      LaneArray<float> w = Rows(seed);
      for (int64_t i = 0; i < 256 * kLanes; ++i) w[i] = std::min(w[i], 0.15f) - 0.2f;
      std::vector<float> h = RandomWeights(256, seed + 90, 2.5f);
      for (float& v : h) v = std::exp(std::min(v, 5.0f));
      NormalizeImportance(std::vector<float>(h), 256, h.data());
      for (const ScaleSearch search : {ScaleSearch::kMinMax, ScaleSearch::kSearch}) {
        error[search == ScaleSearch::kSearch] +=
            ErrorOf(type, w, h, EncodeLanes(type, w, h, search, Effort::kNormal));
      }
    }
    MESSAGE("error over min/max: ", error[1] / error[0]);
    CHECK(error[1] < (type == BlockType::kQ2_K ? 0.27 : 0.5) * error[0]);
  }
}

TEST_CASE("blocks of one value keep it, whichever way sums are rounded") {
  const std::vector<float> values = RandomWeights(kLanes, 70, 0.3f);
  LaneArray<float> w(256 * kLanes);
  for (int64_t i = 0; i < 256 * kLanes; ++i) w[i] = values[static_cast<size_t>(i % kLanes)];
  for (const BlockType type : kTypes) {
    CAPTURE(TraitsOf(type).name);
    for (const std::vector<float>& h : {std::vector<float>(256, 1.0f), UnequalImportance(71)}) {
      for (const Effort effort : {Effort::kFast, Effort::kNormal, Effort::kBest}) {
        const Bytes blocks = EncodeLanes(type, w, h, ScaleSearch::kSearch, effort);
        for (int64_t l = 0; l < kLanes; ++l) {
          const float value = values[static_cast<size_t>(l)];
          for (const float v : Decode(type, blocks, l)) {
            REQUIRE(v == doctest::Approx(value).epsilon(2e-3));
          }
        }
      }
    }
  }
}

TEST_CASE("a lane of extreme size changes nothing in the others") {
  const std::vector<float> h = UnequalImportance(7);
  for (const BlockType type : kTypes) {
    CAPTURE(TraitsOf(type).name);
    for (const float extreme : {1e30f, 1e-30f, 1e-42f}) {
      CAPTURE(extreme);
      const LaneArray<float> usual = Rows(3);
      LaneArray<float> mixed = Rows(3);
      for (int64_t i = 0; i < 256; ++i) mixed[i * kLanes + 9] = i % 2 == 0 ? extreme : -extreme;
      const Bytes a = EncodeLanes(type, usual, h, ScaleSearch::kSearch, Effort::kNormal);
      const Bytes b = EncodeLanes(type, mixed, h, ScaleSearch::kSearch, Effort::kNormal);
      for (int64_t l = 0; l < kLanes; ++l) CHECK((BlockOf(a, l) == BlockOf(b, l)) == (l != 9));
    }
  }
}

TEST_CASE("weights a million times larger decode to values a million times larger") {
  // 2^20: too large to be used as they are, so they are scaled first; d and dmin still fit.
  const std::vector<float> h = UnequalImportance(8);
  LaneArray<float> usual = Rows(5, 0.5f), large = Rows(5, 0.5f);
  for (int64_t i = 0; i < 256 * kLanes; ++i) {
    usual[i] = i < kLanes ? 1.1f : std::clamp(usual[i], -0.2f, 1.1f);
    large[i] = usual[i] * 0x1p20f;
  }
  for (const BlockType type : kTypes) {
    CAPTURE(TraitsOf(type).name);
    for (const ScaleSearch search : {ScaleSearch::kMinMax, ScaleSearch::kSearch}) {
      const Bytes a = EncodeLanes(type, usual, h, search, Effort::kNormal);
      const Bytes b = EncodeLanes(type, large, h, search, Effort::kNormal);
      for (int64_t l = 0; l < kLanes; ++l) {
        std::vector<float> want = Decode(type, a, l);
        for (float& v : want) v *= 0x1p20f;
        CHECK(Decode(type, b, l) == want);
      }
    }
  }
}

TEST_CASE("weights beyond what fp16 steps reach are cut to the largest that exist") {
  const std::vector<float> h(256, 1.0f);
  for (const BlockType type : kTypes) {
    CAPTURE(TraitsOf(type).name);
    const LaneArray<float> w = Rows(9, 1e36f);
    const Bytes blocks = EncodeLanes(type, w, h, ScaleSearch::kSearch, Effort::kNormal);
    for (int64_t l = 0; l < kLanes; ++l) {
      const std::vector<float> v = Decode(type, blocks, l);
      float top = 0;
      for (int64_t i = 0; i < 256; ++i) {
        const auto at = static_cast<size_t>(i);
        REQUIRE(std::isfinite(v[at]));
        REQUIRE((v[at] == 0 || (v[at] < 0) == (w[i * kLanes + l] < 0)));
        top = std::max(top, std::abs(v[at]));
      }
      CHECK(top > 65504.0f * 15);  // the largest step times the least of all largest integers
    }
  }
}

}  // namespace
}  // namespace pennyweight
