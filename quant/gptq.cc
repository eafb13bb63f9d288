// The first pass of gptq (quant/gptq_block.h) over a matrix, then sweeps (quant/gptq_sweep.h).
//
// Columns are walked in spans (a few blocks, or one long block) of panels. What earlier columns add
// to a panel is a matrix product; inside a panel kLanes rows go side by side, one in each lane.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lib/checked.h"
#include "lib/linalg.h"
#include "lib/parallel.h"
#include "quant/element_kernels.h"
#include "quant/gptq_block.h"
#include "quant/gptq_plan.h"
#include "quant/gptq_sweep.h"
#include "quant/lanes.h"
#include "quant/method.h"
#include "quant/method_checks.h"

namespace pennyweight {
namespace {

constexpr int64_t kRowsPerTask = GptqPlan::kTaskRows;
// The rows of one task, quantized together in groups of kLanes.
class RowBlock {
 public:
  RowBlock(const Context& context, const GptqPlan& plan, const float* w, int64_t first,
           int64_t rows, EncodedTensor* out)
      : context_(context),
        plan_(plan),
        cols_(plan.k()),
        first_(first),
        rows_(rows),
        out_(out),
        coder_(plan.encoding(), cols_, plan.effort()),
        width_(coder_.width()),
        span_(width_ > kGptqPanel ? width_ : kGptqPanel / width_ * width_),
        w_(static_cast<size_t>(rows * cols_)),
        errors_(static_cast<size_t>(kRowsPerTask * cols_)),
        sums_(static_cast<size_t>(kRowsPerTask * span_)),
        weights_(span_ * kLanes),
        lane_sums_(span_ * kLanes),
        lane_errors_(span_ * kLanes),
        lane_values_(span_ * kLanes) {
    CopyWeights(w);
    for (int64_t i = 0; i < Groups() * (cols_ / width_); ++i) {
      grids_.push_back(MakeGrid(plan.encoding(), cols_, plan.effort()));
    }
    if (width_ > kGptqPanel) {
      attempt_.targets = LaneArray<float>(kGptqPanel * kLanes);
      attempt_.values = LaneArray<float>(kGptqPanel * kLanes);
    }
    if (plan_.sweeps() != nullptr) values_ = LaneArray<float>(Groups() * cols_ * kLanes);
  }

  Status Run() {
    for (int64_t at = 0; at < cols_; at += span_) {
      if (context_.Cancelled()) return Error(ErrorCode::kInterrupted, "stopped");
      const int64_t end = std::min(cols_, at + span_);
      AddEarlier(0, at, at, end, at);
      if (width_ > kGptqPanel) {
        LongBlock(at, end);
      } else {
        for (int64_t group = 0; group < Groups(); ++group) ShortBlocks(group, at, end);
      }
    }
    if (plan_.sweeps() != nullptr) PW_TRY(Sweep());
    Store();
    return OkStatus();
  }

 private:
  int64_t Groups() const { return CeilDiv(rows_, kLanes); }
  int64_t Count(int64_t group) const { return std::min(kLanes, rows_ - group * kLanes); }
  const float* Weights(int64_t group) const { return w_.data() + group * kLanes * cols_; }
  float* Errors(int64_t group) { return errors_.data() + group * kLanes * cols_; }
  float* Sums(int64_t group) { return sums_.data() + group * kLanes * span_; }
  float* Values(int64_t group) { return values_.data() + group * cols_ * kLanes; }
  BlockGrid* Grid(int64_t group, int64_t block) const {
    return grids_[static_cast<size_t>(group * (cols_ / width_) + block / width_)].get();
  }

  // In the order of coding.
  void CopyWeights(const float* w) {
    w += first_ * cols_;
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t j = 0; j < cols_; ++j) {
        w_[static_cast<size_t>(r * cols_ + j)] =
            w[r * cols_ + plan_.order()[static_cast<size_t>(j)]];
      }
    }
  }

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
    args.b = plan_.r() + k0 * cols_ + c0;
    args.b_stride = cols_;
    args.c = sums_.data() + (c0 - span);
    args.c_stride = span_;
    args.accumulate = true;
    GemmNn(context_, args);
  }

  // Values of n columns from c on have been chosen for `w`: keeps their errors, and the values
  // themselves where sweeps follow.
  void Keep(int64_t group, int64_t c, int64_t n, const float* w, const float* values) {
    float* errors = lane_errors_.data();
    for (int64_t i = 0; i < n * kLanes; ++i) errors[i] = w[i] - values[i];
    StoreLanes(errors, Count(group), n, Errors(group) + c, cols_);
    if (plan_.sweeps() != nullptr) std::copy_n(values, n * kLanes, Values(group) + c * kLanes);
  }

  void ShortBlocks(int64_t group, int64_t from, int64_t end) {
    LoadLanes(Weights(group) + from, cols_, Count(group), end - from, weights_.data());
    LoadLanes(Sums(group), span_, Count(group), end - from, lane_sums_.data());
    for (int64_t block = from; block < end; block += width_) {
      const int64_t at = (block - from) * kLanes;
      const CodedColumns columns = plan_.Columns(block);
      coder_.FitAndCode(columns, weights_.data() + at, lane_sums_.data() + at, Grid(group, block),
                        lane_values_.data());
      Keep(group, block, width_, weights_.data() + at, lane_values_.data());
      for (int64_t c = 0; c < width_; ++c) {
        AddOuter(lane_errors_.data() + c * kLanes, columns.r + c * cols_ + width_,
                 end - block - width_, lane_sums_.data() + at + width_ * kLanes);
      }
    }
  }

  // A block longer than a panel: scales are fitted once, then panel by panel for all rows.
  void LongBlock(int64_t block, int64_t end) {
    const CodedColumns columns = plan_.Columns(block);
    for (int64_t group = 0; group < Groups(); ++group) {
      LoadLanes(Weights(group) + block, cols_, Count(group), width_, weights_.data());
      LoadLanes(Sums(group), span_, Count(group), width_, lane_sums_.data());
      float* targets = lane_errors_.data();
      BlockCoder::Targets(weights_.data(), lane_sums_.data(), columns, width_, targets);
      Grid(group, block)
          ->BeginBlock(coder_.Stored(targets, columns.places, width_), columns.importance,
                       ScaleSearch::kSearch);
    }
    for (int64_t c0 = block; c0 < end; c0 += kGptqPanel) {
      const int64_t n = std::min(end, c0 + kGptqPanel) - c0;
      if (c0 > block) AddEarlier(block, c0, c0, c0 + n, block);
      for (int64_t group = 0; group < Groups(); ++group) {
        LoadLanes(Weights(group) + c0, cols_, Count(group), n, weights_.data());
        LoadLanes(Sums(group) + (c0 - block), span_, Count(group), n, lane_sums_.data());
        coder_.Code(Grid(group, block), columns, c0 - block, c0 - block + n, weights_.data(),
                    lane_sums_.data(), false, &attempt_);
        Keep(group, c0, n, weights_.data(), attempt_.values.data());
      }
    }
  }

  Status Sweep() {
    // From the errors e to u = e R in place: from the right, since R is upper triangular.
    std::vector<float> panel(static_cast<size_t>(kRowsPerTask * kGptqPanel));
    for (int64_t begin = (cols_ - 1) / kGptqPanel * kGptqPanel; begin >= 0; begin -= kGptqPanel) {
      const int64_t n = std::min(kGptqPanel, cols_ - begin);
      GemmNnArgs args;
      args.m = kRowsPerTask;
      args.n = n;
      args.k = begin + n;
      args.a = errors_.data();
      args.a_stride = cols_;
      args.b = plan_.r() + begin;
      args.b_stride = cols_;
      args.c = panel.data();
      args.c_stride = n;
      GemmNn(context_, args);
      for (int64_t r = 0; r < kRowsPerTask; ++r) {
        std::copy_n(panel.data() + r * n, n, errors_.data() + r * cols_ + begin);
      }
    }
    std::vector<SweepGroup> groups;
    for (int64_t group = 0; group < Groups(); ++group) {
      const std::span grids(grids_);
      const auto blocks = static_cast<size_t>(cols_ / width_);
      groups.push_back({grids.subspan(static_cast<size_t>(group) * blocks, blocks), Values(group),
                        Count(group)});
    }
    return GptqSweep(context_, plan_.encoding(), *plan_.sweeps(), kRowsPerTask, plan_.effort())
        .Run(groups, plan_.sweep_count(), errors_.data());
  }

  void Store() {
    const int64_t bytes = Grid(0, 0)->packed_bytes();
    std::vector<uint8_t> packed(static_cast<size_t>(bytes * kLanes));
    for (int64_t group = 0; group < Groups(); ++group) {
      for (int64_t block = 0; block < cols_; block += width_) {
        Grid(group, block)->Pack(packed.data());
        StorePackedLanes(packed.data(), bytes, first_ + group * kLanes, Count(group),
                         plan_.blocks()[static_cast<size_t>(block / width_)], out_);
      }
    }
  }

  const Context& context_;
  const GptqPlan& plan_;
  const int64_t cols_;
  const int64_t first_, rows_;
  EncodedTensor* out_;
  BlockCoder coder_;
  const int64_t width_;  // columns of a block
  const int64_t span_;   // columns of a span: whole blocks
  std::vector<float> w_;
  std::vector<std::unique_ptr<BlockGrid>> grids_;  // [groups, blocks]: codes and scales
  std::vector<float> errors_;                      // [kRowsPerTask, cols]: w - q
  std::vector<float> sums_;                        // [kRowsPerTask, span]: sum of e_k R[k,j]
  LaneArray<float> weights_, lane_sums_, lane_errors_, lane_values_;  // [span] of one group
  LaneArray<float> values_;  // [groups, cols], where sweeps follow
  Attempt attempt_;          // of a panel of a long block
};

}  // namespace

Status QuantizeGptq(const Context& context, const GptqPlan& plan, const float* w, int64_t rows,
                    EncodedTensor* out) {
  const int64_t cols = plan.k();
  *out = EncodedTensor::Allocate(plan.encoding(), rows, cols);
  if (plan.encoding().kind == Encoding::Kind::kCodebook) {
    const auto levels = LevelsOf(plan.encoding().codebook.book);
    out->levels.assign(levels.begin(), levels.end());
  }
  return ParallelTry(context, CeilDiv(rows, kRowsPerTask), [&](int64_t task) -> Status {
    const int64_t first = task * kRowsPerTask;
    const int64_t count = std::min(kRowsPerTask, rows - first);
    for (int64_t r = first; r < first + count; ++r) PW_TRY(CheckFiniteRow(w + r * cols, cols, r));
    return RowBlock(context, plan, w, first, count, out).Run();
  });
}

Status QuantizeGptq(const Context& context, const Encoding& encoding, const HessianFactor& factor,
                    const float* w, int64_t rows, int64_t cols, EncodedTensor* out, Effort effort) {
  if (factor.k != cols) {
    return Error(ErrorCode::kUnsupported, "a factor of " + std::to_string(factor.k) +
                                              " columns for rows of " + std::to_string(cols));
  }
  PW_ASSIGN(const auto plan, GptqPlan::Make(context, encoding, factor, effort));
  return QuantizeGptq(context, *plan, w, rows, out);
}

}  // namespace pennyweight
