// Codes and scales must be the same bytes on every instruction set, and in plain scalar code.
#include <doctest/doctest.h>

#include "hwy/highway.h"
#include "tests/quant/matrices.h"
#include "tests/quant/scalar_grids.h"

namespace pennyweight {
namespace {

constexpr float kSizes[] = {0.05f, 1e-6f, 1e-30f, 3000.0f, 1e30f};

// kLanes rows of `width` columns: usual weights of many sizes, among them rows of zeros, of one
// outlier, of one value and of denormals.
LaneArray<float> Rows(int64_t width, uint32_t seed) {
  LaneArray<float> lanes(width * kLanes);
  for (int64_t l = 0; l < kLanes; ++l) {
    const float size = kSizes[(static_cast<uint32_t>(l) + seed) % 5];
    const std::vector<float> w = RandomWeights(width, seed * 100 + static_cast<uint32_t>(l), size);
    for (int64_t i = 0; i < width; ++i) {
      float v = w[static_cast<size_t>(i)];
      if (l == 3) v = 0;
      if (l == 5) v = i == 7 ? size : 0;
      if (l == 8) v = -size;
      if (l == 12) v *= 1e-38f / size;
      lanes[i * kLanes + l] = v;
    }
  }
  return lanes;
}

std::vector<uint8_t> EncodeBlocks(BlockGrid* grid, ScaleSearch search) {
  std::vector<uint8_t> all;
  for (uint32_t seed = 0; seed < 6; ++seed) {
    const LaneArray<float> rows = Rows(grid->block(), seed);
    std::vector<float> importance = RandomWeights(grid->block(), seed + 50, 1), h(importance);
    for (float& v : importance) v *= v;
    const bool plain = seed % 2 == 0;
    NormalizeImportance(plain ? std::span<const float>() : importance, grid->block(), h.data());
    std::vector<uint8_t> packed(static_cast<size_t>(grid->packed_bytes() * kLanes));
    grid->Encode(rows.data(), h.data(), search, packed.data());
    all.insert(all.end(), packed.begin(), packed.end());
  }
  return all;
}

TEST_CASE("minmax and rtn give the same bytes on every instruction set and in scalar code") {
  for (const GridCase& c : GridCases()) {
    CAPTURE(c.encoding.Name());
    for (const Effort effort : {Effort::kFast, Effort::kNormal, Effort::kBest}) {
      const auto scalar = MakeScalarGrid(c.encoding, 256, effort);
      if (scalar == nullptr) continue;
      for (const ScaleSearch search : {ScaleSearch::kMinMax, ScaleSearch::kSearch}) {
        const std::vector<uint8_t> want = EncodeBlocks(scalar.get(), search);
        int64_t targets = hwy::SupportedTargets();
        for (; targets != 0; targets &= targets - 1) {
          hwy::SetSupportedTargetsForTest(targets & -targets);
          hwy::GetChosenTarget().Update(targets & -targets);
          CAPTURE(hwy::TargetName(targets & -targets));
          const auto grid = MakeGrid(c.encoding, 256, effort);
          CHECK(EncodeBlocks(grid.get(), search) == want);
        }
        hwy::SetSupportedTargetsForTest(0);
        hwy::GetChosenTarget().Update(hwy::SupportedTargets());
      }
    }
  }
}

}  // namespace
}  // namespace pennyweight
