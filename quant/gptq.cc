// GPTQ from one factor. With H + damp = R R^T (R upper triangular) the quadratic error of a row is
//   e H e^T = sum_j R[j,j]^2 (t_j - q_j)^2,   t_j = w_j + (sum_{k<j} e_k R[k,j]) / R[j,j],
// where e = w - q and w are the original weights. Codes are chosen from left to right, each nearest
// to its target t_j; that is GPTQ without an inverse and without rewriting the weights.
//
// Where a type codes several columns jointly, R[j,j] is the small upper triangle of those columns.
//
// Columns are walked in spans (a few blocks, or one long block) of panels. What earlier columns add
// to a panel is a matrix product; inside a panel kLanes rows go side by side, one in each lane.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lib/checked.h"
#include "lib/linalg.h"
#include "lib/parallel.h"
#include "quant/lanes.h"
#include "quant/method.h"
#include "quant/method_checks.h"

namespace pennyweight {
namespace {

constexpr int64_t kRowsPerTask = 64;  // constants of the algorithm, not of the machine
constexpr int64_t kPanel = 256;       // columns between two matrix products
constexpr size_t kPasses = 3;         // fits of one block; see FitAndCode
constexpr int64_t kMaxUnit = 8;

// What all tasks share: the factor, taken apart.
struct Factor {
  const float* r;
  int64_t k;
  std::vector<float> inverse_diagonal;  // 1 / R[j,j]
  // R[j,j]^2, what an error against the target t_j costs, normalised within each block: the weight
  // of scale fits. (H[j,j] would weigh what columns to the right make good again: about half a
  // percent more held-out error.)
  std::vector<float> importance;
};

// One coding of a block of kLanes rows: what each column aimed at and missed by, in lanes.
struct Attempt {
  std::array<double, kLanes> loss{};
  LaneArray<float> targets;
  LaneArray<float> errors;
};

// The rows of one task, quantized together in groups of kLanes.
class RowBlock {
 public:
  RowBlock(const Context& context, const Encoding& encoding, const Factor& factor, const float* w,
           int64_t first, int64_t rows, EncodedTensor* out, Effort effort)
      : context_(context),
        factor_(factor),
        cols_(factor.k),
        w_(w),
        first_(first),
        rows_(rows),
        out_(out),
        errors_(static_cast<size_t>(kRowsPerTask * cols_)) {
    const auto add = [&] { grids_.push_back(MakeGrid(encoding, cols_, effort)); };
    add();
    width_ = grids_[0]->block();
    const bool is_long = width_ > kPanel;
    const int64_t grids = is_long ? Groups() : static_cast<int64_t>(kPasses);
    while (static_cast<int64_t>(grids_.size()) < grids) add();
    span_ = is_long ? width_ : kPanel / width_ * width_;
    sums_.resize(static_cast<size_t>(kRowsPerTask * span_));
    weights_ = LaneArray<float>(span_ * kLanes);
    lane_sums_ = LaneArray<float>(span_ * kLanes);
    run_sums_ = LaneArray<float>(kPanel * kLanes);
    fit_weights_ = LaneArray<float>(width_ * kLanes);
    sub_weights_ = LaneArray<float>(grids_[0]->sub_block() * kLanes);
    packed_.resize(static_cast<size_t>(grids_[0]->packed_bytes() * kLanes) * kPasses);
    const int64_t coded = std::min(width_, kPanel) * kLanes;
    for (Attempt& a : attempts_) {
      a.targets = LaneArray<float>(coded);
      a.errors = LaneArray<float>(coded);
    }
  }

  Status Run() {
    for (int64_t at = 0; at < cols_; at += span_) {
      if (context_.Cancelled()) return Error(ErrorCode::kInterrupted, "stopped");
      const int64_t end = std::min(cols_, at + span_);
      AddEarlier(0, at, at, end, at);
      if (width_ > kPanel) {
        LongBlock(at, end);
      } else {
        for (int64_t group = 0; group < Groups(); ++group) ShortBlocks(group, at, end);
      }
    }
    return OkStatus();
  }

 private:
  int64_t Groups() const { return CeilDiv(rows_, kLanes); }
  int64_t Count(int64_t group) const { return std::min(kLanes, rows_ - group * kLanes); }
  const float* Weights(int64_t group) const { return w_ + (first_ + group * kLanes) * cols_; }
  float* Errors(int64_t group) { return errors_.data() + group * kLanes * cols_; }
  float* Sums(int64_t group) { return sums_.data() + group * kLanes * span_; }

  // Sums of columns [c0, c1) of the span that begins at `span` become, or grow by, the product of
  // the errors of columns [k0, k1) with R. Always all rows of the task, so that the shape, and with
  // it the order of summation, is the same for every task.
  void AddEarlier(int64_t k0, int64_t k1, int64_t c0, int64_t c1, int64_t span) {
    if (k0 == 0 && k1 == span && c0 == span) std::fill(sums_.begin(), sums_.end(), 0.0f);
    if (k1 == k0) return;
    GemmNnArgs args;
    args.m = kRowsPerTask;
    args.n = c1 - c0;
    args.k = k1 - k0;
    args.a = errors_.data() + k0;
    args.a_stride = cols_;
    args.b = factor_.r + k0 * cols_ + c0;
    args.b_stride = cols_;
    args.c = sums_.data() + (c0 - span);
    args.c_stride = span_;
    args.accumulate = true;
    GemmNn(context_, args);
  }

  const float* Importance(int64_t c) const { return factor_.importance.data() + c; }

  // targets[n] of columns [c, c + n) as far as sums[n] know; all in lanes.
  void Targets(const float* w, const float* sums, int64_t c, int64_t n, float* targets) const {
    for (int64_t i = 0; i < n; ++i) {
      const float inverse = factor_.inverse_diagonal[static_cast<size_t>(c + i)];
      for (int64_t l = i * kLanes; l < (i + 1) * kLanes; ++l) targets[l] = w[l] + sums[l] * inverse;
    }
  }

  // t = w + s R^-1 of the unit that begins at column c.
  void UnitTargets(const float* w, const float* sums, int64_t c, int64_t unit, float* t) const {
    if (unit == 1) return Targets(w, sums, c, 1, t);
    for (int64_t j = 0; j < unit; ++j) {
      const float inverse = factor_.inverse_diagonal[static_cast<size_t>(c + j)];
      for (int64_t l = 0; l < kLanes; ++l) {
        float s = sums[j * kLanes + l];
        for (int64_t i = 0; i < j; ++i) {
          s -= t[i * kLanes + l] * factor_.r[(c + i) * cols_ + c + j];
        }
        t[j * kLanes + l] = s * inverse;
      }
    }
    for (int64_t l = 0; l < unit * kLanes; ++l) t[l] += w[l];
  }

  // Adds |(t - q) R|^2 of the unit at column c to each lane's loss.
  void AddLoss(const float* t, const float* q, int64_t c, int64_t unit, Attempt* attempt) const {
    for (int64_t l = 0; l < kLanes; ++l) {
      for (int64_t j = 0; j < unit; ++j) {
        double miss = 0;
        for (int64_t i = 0; i <= j; ++i) {
          miss += (static_cast<double>(t[i * kLanes + l]) - q[i * kLanes + l]) *
                  factor_.r[(c + i) * cols_ + c + j];
        }
        attempt->loss[static_cast<size_t>(l)] += miss * miss;
      }
    }
  }

  // Codes columns [c0, c1) of kLanes rows whose block begins at `block`. w and sums begin at c0;
  // sums hold what columns before c0 add, and are advanced by the columns coded here.
  void Code(BlockGrid* grid, const float* w, int64_t block, int64_t c0, int64_t c1, float* sums,
            bool subs, Attempt* attempt) {
    const int64_t sub = grid->sub_block();
    const int64_t unit = grid->unit();
    alignas(kLaneAlign) float q[kMaxUnit * kLanes];
    attempt->loss.fill(0);
    for (int64_t c = c0; c < c1; c += unit) {
      const int64_t at = (c - c0) * kLanes;
      if (subs && (c - block) % sub == 0 && c > c0) {
        Targets(w + at, sums + at, c, sub, sub_weights_.data());
        grid->BeginSubBlock((c - block) / sub, sub_weights_.data(), Importance(c));
      }
      float* targets = attempt->targets.data() + at;
      float* errors = attempt->errors.data() + at;
      UnitTargets(w + at, sums + at, c, unit, targets);
      grid->Round(c - block, targets, factor_.r + c * cols_ + c, cols_, q);
      for (int64_t l = 0; l < unit * kLanes; ++l) errors[l] = w[at + l] - q[l];
      AddLoss(targets, q, c, unit, attempt);
      for (int64_t i = 0; i < unit; ++i) {
        AddOuter(errors + i * kLanes, factor_.r + (c + i) * cols_ + c + unit, c1 - c - unit,
                 sums + at + unit * kLanes);
      }
    }
  }

  // Fits the scales of one block and codes it; the targets that its columns turned out to have are
  // known only then, so the scales are fitted again to those. Each row keeps its attempt of least
  // loss, and drops out when another fit does not improve it. best_ holds each lane's attempt.
  void FitAndCode(const float* w, int64_t block, const float* sums) {
    const int64_t end = block + width_;
    const bool subs = grids_[0]->sub_block() < width_;
    float* next = fit_weights_.data();
    Targets(w, sums, block, width_, next);
    std::array<bool, kLanes> alive;
    alive.fill(true);
    best_.fill(0);
    for (size_t pass = 0; pass < kPasses; ++pass) {
      Attempt& attempt = attempts_[pass];
      grids_[pass]->BeginBlock(next, Importance(block), ScaleSearch::kSearch);
      std::copy_n(sums, width_ * kLanes, run_sums_.data());
      Code(grids_[pass].get(), w, block, block, end, run_sums_.data(), subs, &attempt);
      bool any = false;
      for (size_t l = 0; l < kLanes; ++l) {
        if (!alive[l]) continue;
        alive[l] = pass == 0 || attempt.loss[l] < attempts_[best_[l]].loss[l];
        if (!alive[l]) continue;
        best_[l] = pass;
        any = true;
        for (int64_t i = static_cast<int64_t>(l); i < width_ * kLanes; i += kLanes) {
          next[i] = attempt.targets[i];
        }
      }
      if (!any) break;
    }
  }

  // Writes each lane's best attempt, and leaves its errors in attempts_[0].
  void KeepBest(int64_t group, int64_t b) {
    const int64_t bytes = grids_[0]->packed_bytes();
    std::array<bool, kPasses> packed{};
    for (int64_t l = 0; l < Count(group); ++l) {
      const size_t pass = best_[static_cast<size_t>(l)];
      uint8_t* blocks = packed_.data() + static_cast<int64_t>(pass) * kLanes * bytes;
      if (!packed[pass]) grids_[pass]->Pack(blocks);
      packed[pass] = true;
      StorePacked(blocks + l * bytes, first_ + group * kLanes + l, b, out_);
      if (pass == 0) continue;
      for (int64_t i = l; i < width_ * kLanes; i += kLanes) {
        attempts_[0].errors[i] = attempts_[pass].errors[i];
      }
    }
  }

  void LoadGroup(int64_t group, int64_t from, int64_t n) {
    LoadLanes(Weights(group) + from, cols_, Count(group), n, weights_.data());
    LoadLanes(Sums(group), span_, Count(group), n, lane_sums_.data());
  }

  void ShortBlocks(int64_t group, int64_t from, int64_t end) {
    LoadGroup(group, from, end - from);
    for (int64_t block = from; block < end; block += width_) {
      const int64_t at = (block - from) * kLanes;
      FitAndCode(weights_.data() + at, block, lane_sums_.data() + at);
      KeepBest(group, block / width_);
      const float* errors = attempts_[0].errors.data();
      StoreLanes(errors, Count(group), width_, Errors(group) + block, cols_);
      const int64_t next = block + width_;
      for (int64_t c = block; c < next; ++c) {
        AddOuter(errors + (c - block) * kLanes, factor_.r + c * cols_ + next, end - next,
                 lane_sums_.data() + (next - from) * kLanes);
      }
    }
  }

  // A block longer than a panel: scales are fitted once, then panel by panel for all rows.
  void LongBlock(int64_t block, int64_t end) {
    for (int64_t group = 0; group < Groups(); ++group) {
      LoadGroup(group, block, width_);
      Targets(weights_.data(), lane_sums_.data(), block, width_, fit_weights_.data());
      Grid(group)->BeginBlock(fit_weights_.data(), Importance(block), ScaleSearch::kSearch);
    }
    for (int64_t c0 = block; c0 < end; c0 += kPanel) {
      const int64_t c1 = std::min(end, c0 + kPanel);
      if (c0 > block) AddEarlier(block, c0, c0, c1, block);
      for (int64_t group = 0; group < Groups(); ++group) {
        LoadLanes(Weights(group) + c0, cols_, Count(group), c1 - c0, weights_.data());
        LoadLanes(Sums(group) + (c0 - block), span_, Count(group), c1 - c0, run_sums_.data());
        Code(Grid(group), weights_.data(), block, c0, c1, run_sums_.data(), false, &attempts_[0]);
        StoreLanes(attempts_[0].errors.data(), Count(group), c1 - c0, Errors(group) + c0, cols_);
      }
    }
    for (int64_t group = 0; group < Groups(); ++group) {
      Grid(group)->Pack(packed_.data());
      for (int64_t l = 0; l < Count(group); ++l) {
        StorePacked(packed_.data() + l * grids_[0]->packed_bytes(), first_ + group * kLanes + l,
                    block / width_, out_);
      }
    }
  }
  BlockGrid* Grid(int64_t group) { return grids_[static_cast<size_t>(group)].get(); }

  const Context& context_;
  const Factor& factor_;
  const int64_t cols_;
  const float* w_;
  const int64_t first_, rows_;
  EncodedTensor* out_;
  int64_t width_ = 0;                              // columns of a block
  int64_t span_ = 0;                               // columns of a span: whole blocks
  std::vector<std::unique_ptr<BlockGrid>> grids_;  // one per pass, or per group of a long block
  std::vector<float> errors_;                      // [kRowsPerTask, cols]: w - q
  std::vector<float> sums_;                        // [kRowsPerTask, span]: sum of e_k R[k,j]
  LaneArray<float> weights_, lane_sums_;           // [span] of one group
  LaneArray<float> run_sums_;                      // [panel]
  LaneArray<float> fit_weights_;                   // [width]
  LaneArray<float> sub_weights_;                   // [sub-block]
  std::vector<uint8_t> packed_;                    // [passes, lanes, packed bytes]
  std::array<Attempt, kPasses> attempts_;
  std::array<size_t, kLanes> best_{};  // attempt of each lane in the last FitAndCode
};

}  // namespace

Status QuantizeGptq(const Context& context, const Encoding& encoding, const HessianFactor& factor,
                    const float* w, int64_t rows, int64_t cols, EncodedTensor* out, Effort effort) {
  const auto probe = MakeGrid(encoding, cols, effort);
  if (probe == nullptr) {
    return Error(ErrorCode::kUnsupported, "rows of " + std::to_string(cols) +
                                              " columns cannot be written as " + encoding.Name());
  }
  Factor shared{factor.r, cols, {}, {}};
  std::vector<float> conditional(static_cast<size_t>(cols));
  shared.inverse_diagonal.resize(static_cast<size_t>(cols));
  for (int64_t j = 0; j < cols; ++j) {
    const float d = factor.r[j * cols + j];
    shared.inverse_diagonal[static_cast<size_t>(j)] = 1.0f / d;
    conditional[static_cast<size_t>(j)] = d * d;
  }
  shared.importance = BlockImportance(conditional, cols, probe->block());
  *out = EncodedTensor::Allocate(encoding, rows, cols);
  return ParallelTry(context, CeilDiv(rows, kRowsPerTask), [&](int64_t task) -> Status {
    const int64_t first = task * kRowsPerTask;
    const int64_t count = std::min(kRowsPerTask, rows - first);
    for (int64_t r = first; r < first + count; ++r) PW_TRY(CheckFiniteRow(w + r * cols, cols, r));
    return RowBlock(context, encoding, shared, w, first, count, out, effort).Run();
  });
}

}  // namespace pennyweight
