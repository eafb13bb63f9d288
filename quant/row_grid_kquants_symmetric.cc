// Q3_K Q6_K: a super-block of 256 with an fp16 d; each sub-block of 16 has a signed integer scale
// sc, and value = d sc q. The search is that of the affine k-quants without a minimum: the best
// real scale of each sub-block, d by the quadratic forms of their errors, then neighbouring
// integers with true errors in turn with least-squares refits of d.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "lib/dtype.h"
#include "quant/row_grids.h"
#include "quant/kquants_pack.h"
#include "quant/scale_search.h"

namespace pennyweight {
namespace {

constexpr int64_t kSuper = 256;
constexpr int64_t kSub = 16;
constexpr size_t kCount = 16;
constexpr int kKeptSteps = 3;  // values of d that go on to true errors
constexpr int kMaxRefits = 4;

struct Pick {
  float d = 0;
  std::array<int, kCount> sc{};
  double error = std::numeric_limits<double>::infinity();
};

struct SubChoice {
  int sc = 0;
  double error = 0;
};

class SymmetricKGrid final : public RowGrid {
 public:
  // Codes in [-codes, codes - 1], sub-block scales in [-top, top - 1].
  SymmetricKGrid(BlockType type, int codes, int top)
      : RowGrid(kSuper, kSub),
        type_(type),
        lo_(static_cast<float>(-codes)),
        hi_(static_cast<float>(codes - 1)),
        top_(top),
        blocks_(kCount, FitBlock(kSub)) {}

  void BeginBlock(std::span<const float> w, std::span<const float> importance,
                  ScaleSearch search) override {
    std::array<float, kSuper> h;
    NormalizeImportance(importance, kSuper, h.data());
    for (size_t j = 0; j < kCount; ++j) {
      blocks_[j].Load(w.subspan(j * kSub, kSub), std::span<const float>(h).subspan(j * kSub, kSub));
    }
    pick_ = MinMaxPick();
    if (search == ScaleSearch::kSearch) SearchPick();
    for (size_t j = 0; j < kCount; ++j) FixScale(j);
  }

  void BeginSubBlock(int64_t s, std::span<const float> w,
                     std::span<const float> importance) override {
    const auto j = static_cast<size_t>(s);
    blocks_[j].Load(w, importance);
    const SubChoice kept = Climb(j, pick_.d, pick_.sc[j]);
    const float scale = SearchSymmetric(blocks_[j], lo_, hi_).scale * blocks_[j].unit();
    const SubChoice fresh = Climb(j, pick_.d, Nearest(scale, pick_.d));
    pick_.sc[j] = fresh.error < kept.error ? fresh.sc : kept.sc;
    FixScale(j);
  }

  float Round(int64_t i, float w) override {
    const auto j = static_cast<size_t>(i / kSub);
    float q = 0;
    if (scale_[j] != 0) q = NearestInteger(ClampTo(w / scale_[j], lo_, hi_));
    codes_[static_cast<size_t>(i)] = static_cast<int8_t>(q);
    return scale_[j] * q;
  }

  void Pack(EncodedTensor* out, int64_t row, int64_t b) const override {
    KBlock block;
    block.d = pick_.d;
    std::copy(pick_.sc.begin(), pick_.sc.end(), block.scales);
    std::copy(codes_.begin(), codes_.end(), block.codes);
    const int64_t bytes = TraitsOf(type_).bytes;
    PackKBlock(type_, block, out->data.data() + (row * (out->cols / kSuper) + b) * bytes);
  }

 private:
  int Nearest(float value, float step) const {
    if (step == 0) return 0;
    return static_cast<int>(NearestInteger(
        ClampTo(value / step, static_cast<float>(-top_), static_cast<float>(top_ - 1))));
  }

  void FixScale(size_t j) { scale_[j] = pick_.d * static_cast<float>(pick_.sc[j]); }

  // To the units of the weights, and comparable between sub-blocks.
  double Weight(size_t j) const {
    const double unit = blocks_[j].unit();
    return blocks_[j].importance_mean() * unit * unit;
  }

  double TrueError(size_t j, float d, int sc) const {
    const float scale = d * static_cast<float>(sc) / blocks_[j].unit();
    return Weight(j) * SymmetricError(blocks_[j], lo_, hi_, scale);
  }

  SubChoice Climb(size_t j, float d, int sc) const {
    SubChoice best{sc, TrueError(j, d, sc)};
    for (const int step : {1, -1}) {
      for (int next = best.sc + step; next >= -top_ && next < top_; next += step) {
        const double error = TrueError(j, d, next);
        if (!(error < best.error)) break;
        best = {next, error};
      }
    }
    return best;
  }

  // The reference's plain choice: the largest weight of a sub-block, with its sign, has the lowest
  // code, and the largest scale the lowest integer.
  Pick MinMaxPick() const {
    std::array<float, kCount> scale{};
    float largest = 0;
    for (size_t j = 0; j < kCount; ++j) {
      const FitBlock& b = blocks_[j];
      scale[j] = (-b.min() > b.max() ? b.min() : b.max()) / lo_ * b.unit();
      if (std::abs(scale[j]) > std::abs(largest)) largest = scale[j];
    }
    Pick pick;
    pick.d = RoundStored(DType::kF16, largest / static_cast<float>(-top_));
    for (size_t j = 0; j < kCount; ++j) pick.sc[j] = Nearest(scale[j], pick.d);
    return pick;
  }

  void ClimbAll(Pick* pick) const {
    pick->error = 0;
    for (size_t j = 0; j < kCount; ++j) {
      const SubChoice choice = Climb(j, pick->d, pick->sc[j]);
      pick->sc[j] = choice.sc;
      pick->error += choice.error;
    }
  }

  void RefitSuper(Pick* pick) const {
    double a = 0, b = 0;
    for (size_t j = 0; j < kCount; ++j) {
      const double unit = blocks_[j].unit();
      const double sc = pick->sc[j];
      const float scale = pick->d * static_cast<float>(pick->sc[j]) / blocks_[j].unit();
      if (scale == 0) continue;
      const SymmetricSums s = SumSymmetric(blocks_[j], lo_, hi_, 1.0f / scale);
      a += blocks_[j].importance_mean() * unit * sc * s.a;
      b += blocks_[j].importance_mean() * sc * sc * s.b;
    }
    if (b > 0) pick->d = RoundStored(DType::kF16, static_cast<float>(a / b));
  }

  void SearchPick() {
    pick_.error = 0;
    float largest = 0;
    std::array<float, kCount> scale{};
    std::array<SymmetricSums, kCount> sums{};
    for (size_t j = 0; j < kCount; ++j) {
      pick_.error += TrueError(j, pick_.d, pick_.sc[j]);
      const float fit = SearchSymmetric(blocks_[j], lo_, hi_).scale;
      if (fit != 0) sums[j] = SumSymmetric(blocks_[j], lo_, hi_, 1.0f / fit);
      scale[j] = fit * blocks_[j].unit();
      if (std::abs(scale[j]) > std::abs(largest)) largest = scale[j];
    }
    if (largest == 0) return;

    std::array<Pick, kKeptSteps> kept;
    for (int step = -9; step <= 24; ++step) {
      // Above 1 the steps are finer and the largest sub-block is cut short.
      const float ratio = 1.0f + 0.0125f * static_cast<float>(step);
      for (const float sign : {-1.0f, 1.0f}) {
        Pick pick;
        pick.d = RoundStored(DType::kF16, sign * largest / (static_cast<float>(top_) * ratio));
        pick.error = 0;
        for (size_t j = 0; j < kCount; ++j) {
          pick.sc[j] = Nearest(scale[j], pick.d);
          const double s = pick.d * static_cast<double>(pick.sc[j]) / blocks_[j].unit();
          pick.error += Weight(j) * (blocks_[j].sum_hxx() - 2 * s * sums[j].a + s * s * sums[j].b);
        }
        for (Pick& place : kept) {
          if (pick.error < place.error) std::swap(pick, place);
        }
      }
    }
    for (Pick& pick : kept) {
      if (!std::isfinite(pick.error)) continue;
      for (int i = 0; i < kMaxRefits; ++i) {
        ClimbAll(&pick);
        if (!(pick.error < pick_.error) && i > 0) break;
        const float before = pick.d;
        if (pick.error < pick_.error) pick_ = pick;
        RefitSuper(&pick);
        if (pick.d == before) break;
      }
    }
  }

  BlockType type_;
  float lo_, hi_;
  int top_;
  std::vector<FitBlock> blocks_;
  Pick pick_;
  std::array<float, kCount> scale_{};
  std::array<int8_t, kSuper> codes_{};
};

}  // namespace

std::unique_ptr<RowGrid> MakeSymmetricKRowGrid(BlockType type) {
  switch (type) {
    case BlockType::kQ3_K:
      return std::make_unique<SymmetricKGrid>(type, 4, 32);
    case BlockType::kQ6_K:
      return std::make_unique<SymmetricKGrid>(type, 32, 128);
    default:
      return nullptr;
  }
}

}  // namespace pennyweight
