#include "quant/lanes.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "hwy/highway.h"
#include "tests/quant/matrices.h"

namespace pennyweight {
namespace {

TEST_CASE("one value that is not finite is found wherever it stands") {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    CAPTURE(hwy::TargetName(target));
    for (const int64_t n : {1, 15, 16, 67}) {
      std::vector<float> w = RandomWeights(n, 3);
      w[0] = -std::numeric_limits<float>::max();
      CHECK(FindNonFinite(w.data(), n) == -1);
      for (int64_t i = 0; i < n; ++i) {
        const float kept = w[static_cast<size_t>(i)];
        for (const float bad : {kInf, -kInf, std::nanf("")}) {
          w[static_cast<size_t>(i)] = bad;
          CHECK(FindNonFinite(w.data(), n) == i);
        }
        w[static_cast<size_t>(i)] = kept;
      }
    }
  }
  hwy::SetSupportedTargetsForTest(0);
}

TEST_CASE("rows go into lanes and back, whatever their number and length") {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    CAPTURE(hwy::TargetName(target));
    for (const int64_t count : {1, 7, 16}) {
      for (const int64_t n : {1, 4, 30, 64}) {
        const int64_t stride = n + 5;
        const std::vector<float> rows = RandomWeights(count * stride, 9);
        LaneArray<float> lanes(n * kLanes);
        for (int64_t i = 0; i < n * kLanes; ++i) lanes[i] = 42;
        LoadLanes(rows.data(), stride, count, n, lanes.data());
        for (int64_t l = 0; l < kLanes; ++l) {
          for (int64_t i = 0; i < n; ++i) {
            const float want = l < count ? rows[static_cast<size_t>(l * stride + i)] : 0.0f;
            CHECK(lanes[i * kLanes + l] == want);
          }
        }
        std::vector<float> back(rows.size(), -1.0f);
        StoreLanes(lanes.data(), count, n, back.data(), stride);
        for (int64_t l = 0; l < count; ++l) {
          for (int64_t i = 0; i < stride; ++i) {
            const auto at = static_cast<size_t>(l * stride + i);
            CHECK(back[at] == (i < n ? rows[at] : -1.0f));
          }
        }
      }
    }
  }
  hwy::SetSupportedTargetsForTest(0);
}

}  // namespace
}  // namespace pennyweight
