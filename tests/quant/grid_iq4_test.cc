// What is special about grids of unevenly spaced values, and about scales of two levels.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "hwy/highway.h"
#include "quant/codec.h"
#include "quant/codec_blocks.h"
#include "quant/grid.h"
#include "tests/quant/matrices.h"
#include "tests/quant/one_row.h"
#include "tests/quant/scalar_grids.h"

namespace pennyweight {
namespace {

// Calls check(grid) for the grid of each instruction set and for plain scalar code.
template <class Check>
void OnEveryTarget(const Encoding& encoding, Effort effort, const Check& check) {
  OneRow scalar(MakeScalarGrid(encoding, 256, effort));
  check(&scalar);
  for (int64_t targets = hwy::SupportedTargets(); targets != 0; targets &= targets - 1) {
    hwy::SetSupportedTargetsForTest(targets & -targets);
    hwy::GetChosenTarget().Update(targets & -targets);
    CAPTURE(hwy::TargetName(targets & -targets));
    OneRow grid(MakeGrid(encoding, 256, effort));
    check(&grid);
    hwy::SetSupportedTargetsForTest(0);
  }
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

// The scale of a block that is fitted to weights on the grid of `scale`.
std::vector<float> OnGrid(float scale, int64_t n) {
  std::vector<float> w;
  for (int64_t i = 0; i < n; ++i) w.push_back(scale * kIq4Values[i % 16]);
  return w;
}

TEST_CASE("each code of iq4_nl is the nearest, on both sides of every middle") {
  for (const float scale : {0.25f, -0.25f}) {
    OnEveryTarget(Encoding::Block(BlockType::kIQ4_NL), Effort::kNormal, [&](OneRow* grid) {
      const std::vector<float> w = OnGrid(scale, 32);
      grid->BeginBlock(w, {}, ScaleSearch::kSearch);
      for (int64_t i = 0; i < 32; ++i) {
        REQUIRE(grid->Round(i, w[static_cast<size_t>(i)]) == w[static_cast<size_t>(i)]);
      }
      for (int k = 0; k < 15; ++k) {
        const float middle = 0.5f * static_cast<float>(kIq4Values[k] + kIq4Values[k + 1]);
        CAPTURE(middle);
        CHECK(grid->Round(3, scale * (middle - 0.001f)) == scale * kIq4Values[k]);
        CHECK(grid->Round(3, scale * (middle + 0.001f)) == scale * kIq4Values[k + 1]);
      }
      for (const float far : {1e3f, 1e20f, 1e37f}) {
        CHECK(grid->Round(0, scale * far) == scale * 113);
        CHECK(grid->Round(0, scale * -far) == scale * -127);
      }
      std::mt19937 rng(5);
      std::uniform_real_distribution<float> anywhere(-160, 160);
      for (int i = 0; i < 3000; ++i) {
        const float v = anywhere(rng);
        const float got = grid->Round(i % 32, scale * v) / scale;
        float miss = 1e9f;
        for (const int8_t value : kIq4Values) miss = std::min(miss, std::abs(v - value));
        REQUIRE(std::abs(v - got) <= miss + 1e-4f);
      }
    });
  }
}

TEST_CASE("weights that lie on a grid of two levels are met") {
  // d = 2^-9, integers of both signs; the largest scale belongs to the lowest integer.
  for (const BlockType type : {BlockType::kQ3_K, BlockType::kQ6_K, BlockType::kIQ4_XS}) {
    CAPTURE(TraitsOf(type).name);
    const int top = type == BlockType::kQ6_K ? 128 : 32;
    const int sub = type == BlockType::kIQ4_XS ? 32 : 16;
    std::vector<float> w;
    for (int i = 0; i < 256; ++i) {
      const int j = i / sub;
      const int n = j == 3 ? -top : (j % 2 == 0 ? 1 : -1) * (top - 3 - 2 * j);
      const int code = i % sub;
      const int value = type == BlockType::kIQ4_XS ? kIq4Values[code % 16]
                        : type == BlockType::kQ3_K ? code % 8 - 4
                                                   : 2 * code - 32 + (code == 15 ? 1 : 0);
      w.push_back(0x1p-9f * static_cast<float>(n * value));
    }
    OnEveryTarget(Encoding::Block(type), Effort::kNormal, [&](OneRow* grid) {
      grid->BeginBlock(w, {}, ScaleSearch::kSearch);
      for (size_t i = 0; i < 256; ++i) {
        REQUIRE(grid->Round(static_cast<int64_t>(i), w[i]) == doctest::Approx(w[i]).epsilon(1e-6));
      }
    });
  }
}

TEST_CASE("BeginSubBlock of iq4_xs fits the new weights without touching other sub-blocks") {
  const std::vector<float> w = RandomWeights(256, 21);
  std::vector<float> changed = w;
  for (size_t i = 32; i < 64; ++i) changed[i] = -0.5f * w[i] + 0.003f;
  OnEveryTarget(Encoding::Block(BlockType::kIQ4_XS), Effort::kNormal, [&](OneRow* grid) {
    const auto error = [&] {
      double sum = 0;
      for (size_t i = 32; i < 64; ++i) {
        sum += std::pow(changed[i] - grid->Round(static_cast<int64_t>(i), changed[i]), 2);
      }
      return sum;
    };
    grid->BeginBlock(w, {}, ScaleSearch::kSearch);
    const double before = error();
    const float first = grid->Round(0, w[0]), last = grid->Round(255, w[255]);
    grid->BeginSubBlock(1, std::span<const float>(changed).subspan(32, 32), {});
    CHECK(error() < 0.8 * before);
    CHECK(grid->Round(0, w[0]) == first);
    CHECK(grid->Round(255, w[255]) == last);
  });
}

// Sum of h (w - decoded)^2 over rows of 256 weights.
double Error(const Encoding& encoding, Effort effort, ScaleSearch search, bool weighted) {
  OneRow grid(MakeGrid(encoding, 256, effort));
  double error = 0;
  for (uint32_t seed = 0; seed < 40; ++seed) {
    const std::vector<float> w = RandomWeights(256, seed);
    std::vector<float> h = RandomWeights(256, seed + 900, 1);
    for (float& v : h) v = weighted ? v * v + 0.01f : 1.0f;
    const auto n = static_cast<size_t>(grid.block());
    for (size_t b = 0; b < 256; b += n) {
      grid.BeginBlock({w.data() + b, n}, {h.data() + b, n}, search);
      for (size_t i = 0; i < n; ++i) {
        const double e = w[b + i] - grid.Round(static_cast<int64_t>(i), w[b + i]);
        error += h[b + i] * e * e;
      }
    }
  }
  return error;
}

TEST_CASE("more effort has less error, weighted or not") {
  for (const BlockType type :
       {BlockType::kQ3_K, BlockType::kQ6_K, BlockType::kIQ4_NL, BlockType::kIQ4_XS}) {
    CAPTURE(TraitsOf(type).name);
    const Encoding encoding = Encoding::Block(type);
    for (const bool weighted : {false, true}) {
      CAPTURE(weighted);
      const double plain = Error(encoding, Effort::kNormal, ScaleSearch::kMinMax, weighted);
      const double fast = Error(encoding, Effort::kFast, ScaleSearch::kSearch, weighted);
      const double normal = Error(encoding, Effort::kNormal, ScaleSearch::kSearch, weighted);
      const double best = Error(encoding, Effort::kBest, ScaleSearch::kSearch, weighted);
      CHECK(fast < 0.95 * plain);
      CHECK(normal < fast);
      CHECK(best < normal);
      CHECK(best > 0.93 * normal);  // kNormal is where the curve bends
    }
  }
}

}  // namespace
}  // namespace pennyweight
