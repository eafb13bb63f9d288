// Q2_K Q4_K Q5_K: a super-block of 256 with fp16 d and dmin; each sub-block has an integer scale
// sc and minimum mn, and value = d sc q - dmin mn.
//
// The search has three steps: the best real scale and minimum of each sub-block; d and dmin for
// which integers sc, mn reproduce them with the least weighted error, estimated from the quadratic
// form of each sub-block's error; then, for the best few pairs, sc and mn by trying neighbours with
// true errors in turn with a least-squares refit of d and dmin.
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
constexpr int kMaxSubs = 16;
constexpr int kKeptPairs = 3;  // pairs (d, dmin) that go on to true errors
constexpr int kMaxRefits = 4;  // of d and dmin

// Scales of one super-block as stored, and the weighted error they give.
struct Pick {
  float d = 0;
  float dmin = 0;
  std::array<int, kMaxSubs> sc{};
  std::array<int, kMaxSubs> mn{};
  double error = std::numeric_limits<double>::infinity();
};

struct SubChoice {
  int sc = 0;
  int mn = 0;
  double error = 0;
};

class AffineKGrid final : public RowGrid {
 public:
  AffineKGrid(BlockType type, int64_t sub, int levels, int top)
      : RowGrid(kSuper, sub),
        type_(type),
        count_(static_cast<size_t>(kSuper / sub)),
        levels_(static_cast<float>(levels)),
        top_(top),
        blocks_(count_, FitBlock(sub)),
        fits_(count_),
        sums_(count_) {}

  void BeginBlock(std::span<const float> w, std::span<const float> importance,
                  ScaleSearch search) override {
    std::array<float, kSuper> h;
    NormalizeImportance(importance, kSuper, h.data());
    const auto n = static_cast<size_t>(sub_block());
    for (size_t j = 0; j < count_; ++j) {
      blocks_[j].Load(w.subspan(j * n, n), std::span<const float>(h).subspan(j * n, n));
    }
    pick_ = MinMaxPick();
    if (search == ScaleSearch::kSearch) {
      SearchPick();
    }
    FixScales();
  }

  void BeginSubBlock(int64_t s, std::span<const float> w,
                     std::span<const float> importance) override {
    const auto j = static_cast<size_t>(s);
    blocks_[j].Load(w, importance);
    const SubChoice kept = Climb(j, pick_.d, pick_.dmin, pick_.sc[j], pick_.mn[j]);
    const AffineFit fit = SearchAffine(blocks_[j], levels_, true);
    const float unit = blocks_[j].unit();
    const SubChoice fresh = Climb(j, pick_.d, pick_.dmin, Nearest(fit.scale * unit, pick_.d),
                                  Nearest(-fit.offset * unit, pick_.dmin));
    const SubChoice& best = fresh.error < kept.error ? fresh : kept;
    pick_.sc[j] = best.sc;
    pick_.mn[j] = best.mn;
    FixScale(j);
  }

  float Round(int64_t i, float w) override {
    const auto j = static_cast<size_t>(i / sub_block());
    float q = 0;
    if (scale_[j] != 0) {
      q = NearestInteger(ClampTo((w + min_[j]) / scale_[j], 0.0f, levels_));
    }
    codes_[static_cast<size_t>(i)] = static_cast<int8_t>(q);
    return scale_[j] * q - min_[j];
  }

  void Pack(EncodedTensor* out, int64_t row, int64_t b) const override {
    KBlock block;
    block.d = pick_.d;
    block.dmin = pick_.dmin;
    std::copy(pick_.sc.begin(), pick_.sc.end(), block.scales);
    std::copy(pick_.mn.begin(), pick_.mn.end(), block.mins);
    std::copy(codes_.begin(), codes_.end(), block.codes);
    const int64_t bytes = TraitsOf(type_).bytes;
    PackKBlock(type_, block, out->data.data() + (row * (out->cols / kSuper) + b) * bytes);
  }

 private:
  int Nearest(float value, float step) const {
    if (step == 0) return 0;
    return static_cast<int>(NearestInteger(ClampTo(value / step, 0.0f, static_cast<float>(top_))));
  }

  void FixScale(size_t j) {
    scale_[j] = pick_.d * static_cast<float>(pick_.sc[j]);
    min_[j] = pick_.dmin * static_cast<float>(pick_.mn[j]);
  }
  void FixScales() {
    for (size_t j = 0; j < count_; ++j) FixScale(j);
  }

  // To the units of the weights, and comparable between sub-blocks.
  double Weight(size_t j) const {
    const double unit = blocks_[j].unit();
    return blocks_[j].importance_mean() * unit * unit;
  }

  double TrueError(size_t j, float d, float dmin, int sc, int mn) const {
    const float unit = blocks_[j].unit();
    return Weight(j) * AffineError(blocks_[j], levels_, d * static_cast<float>(sc) / unit,
                                   -dmin * static_cast<float>(mn) / unit);
  }

  double TotalError(const Pick& pick) const {
    double error = 0;
    for (size_t j = 0; j < count_; ++j) {
      error += TrueError(j, pick.d, pick.dmin, pick.sc[j], pick.mn[j]);
    }
    return error;
  }

  // Walks from (sc, mn) to neighbours while the true error falls. A larger scale goes with a larger
  // minimum, hence the two diagonal steps.
  SubChoice Climb(size_t j, float d, float dmin, int sc, int mn) const {
    static constexpr int kSteps[6][2] = {{1, 0}, {-1, 0}, {0, 1}, {0, -1}, {1, 1}, {-1, -1}};
    SubChoice best{sc, mn, TrueError(j, d, dmin, sc, mn)};
    for (int round = 0; round < 8; ++round) {
      const SubChoice from = best;
      for (const auto& step : kSteps) {
        const int next_sc = from.sc + step[0];
        const int next_mn = from.mn + step[1];
        if (next_sc < 0 || next_sc > top_ || next_mn < 0 || next_mn > top_) continue;
        const double error = TrueError(j, d, dmin, next_sc, next_mn);
        if (error < best.error) best = {next_sc, next_mn, error};
      }
      if (best.sc == from.sc && best.mn == from.mn) break;
    }
    return best;
  }

  Pick MinMaxPick() const {
    std::array<float, kMaxSubs> scale{}, min{};
    for (size_t j = 0; j < count_; ++j) {
      const float low = std::min(blocks_[j].min(), 0.0f);
      scale[j] = std::max(blocks_[j].max() - low, 0.0f) / levels_ * blocks_[j].unit();
      min[j] = -low * blocks_[j].unit();
    }
    Pick pick;
    const auto top = static_cast<float>(top_);
    pick.d = RoundStored(DType::kF16, *std::max_element(scale.begin(), scale.end()) / top);
    pick.dmin = RoundStored(DType::kF16, *std::max_element(min.begin(), min.end()) / top);
    for (size_t j = 0; j < count_; ++j) {
      pick.sc[j] = Nearest(scale[j], pick.d);
      pick.mn[j] = Nearest(min[j], pick.dmin);
    }
    return pick;
  }

  // Integers for (d, dmin), by the quadratic form of the sub-block's error at its fitted codes.
  SubChoice Estimate(size_t j, float d, float dmin) const {
    const FitBlock& b = blocks_[j];
    const AffineSums& s = sums_[j];
    const double unit = b.unit();
    SubChoice best{0, 0, std::numeric_limits<double>::infinity()};
    const float wanted =
        d == 0 ? 0 : ClampTo(fits_[j].scale * b.unit() / d, 0.0f, static_cast<float>(top_));
    const int floor = static_cast<int>(wanted);
    for (int sc = floor; sc <= std::min(floor + 1, top_); ++sc) {
      const double scale = d * static_cast<double>(sc) / unit;
      // The best offset for this scale; the error is convex in it, so its nearest integer is best.
      const double offset = (b.sum_hx() - scale * s.q) / b.sum_h();
      const int mn = Nearest(static_cast<float>(-offset * unit), dmin);
      const double o = -dmin * static_cast<double>(mn) / unit;
      const double error = b.sum_hxx() - 2 * scale * s.xq + scale * scale * s.qq +
                           2 * scale * o * s.q - 2 * o * b.sum_hx() + o * o * b.sum_h();
      if (error < best.error) best = {sc, mn, error};
    }
    best.error *= Weight(j);
    return best;
  }

  Pick EstimatePick(float d, float dmin) const {
    Pick pick;
    pick.d = d;
    pick.dmin = dmin;
    pick.error = 0;
    for (size_t j = 0; j < count_; ++j) {
      const SubChoice choice = Estimate(j, d, dmin);
      pick.sc[j] = choice.sc;
      pick.mn[j] = choice.mn;
      pick.error += choice.error;
    }
    return pick;
  }

  void ClimbAll(Pick* pick) const {
    pick->error = 0;
    for (size_t j = 0; j < count_; ++j) {
      const SubChoice choice = Climb(j, pick->d, pick->dmin, pick->sc[j], pick->mn[j]);
      pick->sc[j] = choice.sc;
      pick->mn[j] = choice.mn;
      pick->error += choice.error;
    }
  }

  // Least squares for d and dmin with integers and codes as they are; rounded as stored.
  void RefitSuper(Pick* pick) const {
    double a11 = 0, a12 = 0, a22 = 0, b1 = 0, b2 = 0;
    for (size_t j = 0; j < count_; ++j) {
      const FitBlock& b = blocks_[j];
      const float scale = pick->d * static_cast<float>(pick->sc[j]) / b.unit();
      const float offset = -pick->dmin * static_cast<float>(pick->mn[j]) / b.unit();
      const AffineSums s = SumAffine(b, levels_, scale == 0 ? 0 : 1.0f / scale, offset);
      const double h = b.importance_mean();
      const double sc = pick->sc[j], mn = pick->mn[j], unit = b.unit();
      a11 += h * sc * sc * s.qq;
      a12 -= h * sc * mn * s.q;
      a22 += h * mn * mn * b.sum_h();
      b1 += h * sc * unit * s.xq;
      b2 -= h * mn * unit * b.sum_hx();
    }
    double d = a11 > 0 ? b1 / a11 : 0;
    double dmin = 0;
    const double det = a11 * a22 - a12 * a12;
    if (det > 1e-9 * a11 * a22) {
      d = (a22 * b1 - a12 * b2) / det;
      dmin = (a11 * b2 - a12 * b1) / det;
    }
    pick->d = RoundStored(DType::kF16, static_cast<float>(std::max(d, 0.0)));
    pick->dmin = RoundStored(DType::kF16, static_cast<float>(std::max(dmin, 0.0)));
  }

  void SearchPick() {
    pick_.error = TotalError(pick_);
    float max_scale = 0, max_min = 0;
    for (size_t j = 0; j < count_; ++j) {
      const FitBlock& b = blocks_[j];
      fits_[j] = SearchAffine(b, levels_, true);
      const float scale = fits_[j].scale;
      sums_[j] = SumAffine(b, levels_, scale == 0 ? 0 : 1.0f / scale, fits_[j].offset);
      max_scale = std::max(max_scale, scale * b.unit());
      max_min = std::max(max_min, -fits_[j].offset * b.unit());
    }

    // Above 1 the steps are finer and the largest sub-block is cut short.
    static constexpr float kRatios[] = {0.90f, 0.94f, 0.97f, 1.0f, 1.03f,
                                        1.06f, 1.10f, 1.16f, 1.24f};
    std::array<Pick, kKeptPairs> kept;
    for (const float rd : kRatios) {
      const float d = RoundStored(DType::kF16, max_scale / (static_cast<float>(top_) * rd));
      for (const float rm : kRatios) {
        const float dmin = RoundStored(DType::kF16, max_min / (static_cast<float>(top_) * rm));
        Pick pick = EstimatePick(d, dmin);
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
        const Pick before = pick;
        if (pick.error < pick_.error) pick_ = pick;
        RefitSuper(&pick);
        if (pick.d == before.d && pick.dmin == before.dmin) break;
      }
    }
  }

  BlockType type_;
  size_t count_;
  float levels_;
  int top_;
  std::vector<FitBlock> blocks_;
  std::vector<AffineFit> fits_;   // real scale and offset of each sub-block, normalised
  std::vector<AffineSums> sums_;  // of the codes they choose
  Pick pick_;
  std::array<float, kMaxSubs> scale_{}, min_{};
  std::array<int8_t, kSuper> codes_{};
};

}  // namespace

std::unique_ptr<RowGrid> MakeAffineKRowGrid(BlockType type) {
  switch (type) {
    case BlockType::kQ2_K:
      return std::make_unique<AffineKGrid>(type, 16, 3, 15);
    case BlockType::kQ4_K:
      return std::make_unique<AffineKGrid>(type, 32, 15, 63);
    case BlockType::kQ5_K:
      return std::make_unique<AffineKGrid>(type, 32, 31, 63);
    default:
      return nullptr;
  }
}

}  // namespace pennyweight
