// One row through a BlockGrid, which takes kLanes of them: the row lies in one lane, and the others
// hold weights of other sizes, which must not matter.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "quant/grid.h"
#include "tests/quant/matrices.h"

namespace pennyweight {

class OneRow {
 public:
  static constexpr int64_t kLane = 5;

  explicit OneRow(std::unique_ptr<BlockGrid> grid) : grid_(std::move(grid)) {}

  int64_t block() const { return grid_->block(); }
  int64_t sub_block() const { return grid_->sub_block(); }
  int64_t unit() const { return grid_->unit(); }

  // Importance as it comes from a file: normalised here.
  void BeginBlock(std::span<const float> w, std::span<const float> importance, ScaleSearch search) {
    std::vector<float> h(w.size());
    NormalizeImportance(importance, block(), h.data());
    grid_->BeginBlock(Lanes(w), h.data(), search);
  }
  void BeginSubBlock(int64_t s, std::span<const float> w, std::span<const float> importance) {
    std::vector<float> h(w.size());
    NormalizeImportance(importance, sub_block(), h.data());
    grid_->BeginSubBlock(s, Lanes(w), h.data());
  }
  // The values of columns [i, i + unit()).
  std::vector<float> Round(int64_t i, std::span<const float> w) {
    alignas(kLaneAlign) float decoded[8 * kLanes];
    grid_->Round(i, Lanes(w), nullptr, 0, decoded);
    std::vector<float> values;
    for (int64_t k = 0; k < unit(); ++k) values.push_back(decoded[k * kLanes + kLane]);
    return values;
  }
  float Round(int64_t i, float w) { return Round(i, std::span<const float>(&w, 1))[0]; }
  void Pack(EncodedTensor* out, int64_t row, int64_t b) const {
    std::vector<uint8_t> packed(static_cast<size_t>(grid_->packed_bytes() * kLanes));
    grid_->Pack(packed.data());
    StorePacked(packed.data() + kLane * grid_->packed_bytes(), row, b, out);
  }

 private:
  const float* Lanes(std::span<const float> w) {
    const auto n = static_cast<int64_t>(w.size());
    lanes_ = LaneArray<float>(n * kLanes);
    for (int64_t l = 0; l < kLanes; ++l) {
      const std::vector<float> other =
          RandomWeights(n, static_cast<uint32_t>(l), l % 3 == 0 ? 1e-20f : 0.05f);
      for (int64_t i = 0; i < n; ++i) {
        const auto at = static_cast<size_t>(i);
        lanes_[i * kLanes + l] = l == kLane ? w[at] : other[at];
      }
    }
    return lanes_.data();
  }

  std::unique_ptr<BlockGrid> grid_;
  LaneArray<float> lanes_;
};

// nullptr where MakeGrid has none.
inline std::unique_ptr<OneRow> MakeRow(const Encoding& encoding, int64_t cols) {
  auto grid = MakeGrid(encoding, cols);
  return grid == nullptr ? nullptr : std::make_unique<OneRow>(std::move(grid));
}

}  // namespace pennyweight
