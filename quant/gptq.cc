// The first pass of gptq (quant/gptq_block.h) over a matrix, then sweeps (quant/gptq_sweep.h).
//
// Columns are walked in spans (a few blocks, or one long block) of panels. What earlier columns add
// to a span is a matrix product for many rows; inside a span each thread takes kLanes rows, side by
// side, one in each lane.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
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

// Rows that are taken along the columns together, at most: what they keep beside the weights takes
// three times as much as their weights do.
constexpr int64_t kMostRows = 512;

// Columns of a span: whole blocks.
int64_t SpanOf(int64_t width) { return width > kGptqPanel ? width : kGptqPanel / width * width; }

// What a thread works with: nothing in it outlives the work on a group.
struct Scratch {
  explicit Scratch(const GptqPlan& plan) : coder(plan.encoding(), plan.k(), plan.effort()) {
    const int64_t span = SpanOf(coder.width());
    for (LaneArray<float>* a : {&weights, &sums, &errors, &chosen}) {
      *a = LaneArray<float>(span * kLanes);
    }
    if (coder.width() > kGptqPanel) {
      attempt.targets = LaneArray<float>(kGptqPanel * kLanes);
      attempt.values = LaneArray<float>(kGptqPanel * kLanes);
    }
    if (plan.sweeps() != nullptr) sweep.emplace(plan.encoding(), *plan.sweeps(), plan.effort());
  }

  BlockCoder coder;
  LaneArray<float> weights, sums, errors, chosen;  // [span]
  Attempt attempt;                                 // of a panel of a long block
  std::optional<GptqSweep> sweep;
};

// As many as threads work at once.
class ScratchPool {
 public:
  explicit ScratchPool(const GptqPlan& plan) : plan_(plan) {}
  std::unique_ptr<Scratch> Take() {
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        std::unique_ptr<Scratch> taken = std::move(free_.back());
        free_.pop_back();
        return taken;
      }
    }
    return std::make_unique<Scratch>(plan_);
  }
  void Return(std::unique_ptr<Scratch> scratch) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(scratch));
  }

 private:
  const GptqPlan& plan_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_;
};

// kLanes rows of a matrix, fewer at its end: their codes, scales and values. Rows of the matrices
// that are handed over lie `stride` floats apart.
class RowGroup {
 public:
  RowGroup(const GptqPlan& plan, int64_t rows) : plan_(plan), rows_(rows), width_(plan.block()) {
    for (int64_t i = 0; i < plan.k() / width_; ++i) {
      grids_.push_back(MakeGrid(plan.encoding(), plan.k(), plan.effort()));
    }
    if (plan.sweeps() != nullptr) values_ = LaneArray<float>(plan.k() * kLanes);
  }

  // Codes the short blocks of columns [from, end). r, w, errors and sums begin at column `from`.
  void CodeBlocks(Scratch* scratch, int64_t from, int64_t end, const FactorView::Strip& r,
                  const float* w, const float* sums, int64_t sums_stride, float* errors) {
    LoadLanes(w, plan_.k(), rows_, end - from, scratch->weights.data());
    LoadLanes(sums, sums_stride, rows_, end - from, scratch->sums.data());
    for (int64_t block = from; block < end; block += width_) {
      const int64_t at = (block - from) * kLanes;
      const CodedColumns columns = plan_.Columns(block, r.At(block - from, block - from), r.stride);
      scratch->coder.FitAndCode(columns, scratch->weights.data() + at, scratch->sums.data() + at,
                                Grid(block), scratch->chosen.data());
      Keep(scratch, block, width_, scratch->weights.data() + at, scratch->chosen.data(),
           errors + (block - from));
      for (int64_t c = 0; c < width_; ++c) {
        AddOuter(scratch->errors.data() + c * kLanes, columns.r + c * columns.stride + width_,
                 end - block - width_, scratch->sums.data() + at + width_ * kLanes);
      }
    }
  }

  // Fits the scales of a block that is longer than a panel; all begin at column `block`.
  void FitLongBlock(Scratch* scratch, int64_t block, const float* w, const float* sums,
                    int64_t sums_stride) {
    const CodedColumns columns = plan_.Columns(block, nullptr, 0);  // targets need none of R
    LoadLanes(w, plan_.k(), rows_, width_, scratch->weights.data());
    LoadLanes(sums, sums_stride, rows_, width_, scratch->sums.data());
    float* targets = scratch->errors.data();
    BlockCoder::Targets(scratch->weights.data(), scratch->sums.data(), columns, width_, targets);
    Grid(block)->BeginBlock(scratch->coder.Stored(targets, columns.places, width_),
                            columns.importance, ScaleSearch::kSearch);
  }

  // Codes columns [from, from + n) of such a block; all begin at column `from`, r on the diagonal.
  void CodeLongBlock(Scratch* scratch, int64_t block, int64_t from, int64_t n,
                     const FactorView::Strip& r, const float* w, const float* sums,
                     int64_t sums_stride, float* errors) {
    LoadLanes(w, plan_.k(), rows_, n, scratch->weights.data());
    LoadLanes(sums, sums_stride, rows_, n, scratch->sums.data());
    scratch->coder.Code(Grid(block), plan_.Columns(from, r.data, r.stride), from - block,
                        from - block + n, scratch->weights.data(), scratch->sums.data(), false,
                        &scratch->attempt);
    Keep(scratch, from, n, scratch->weights.data(), scratch->attempt.values.data(), errors);
  }

  bool Sweep(Scratch* scratch, const SweepPlan::Panel& panel, const float* slopes, float* moves) {
    return scratch->sweep->Move(panel, {grids_, values_.data(), rows_}, slopes, moves);
  }

  // The codes and scales become rows [row, row + kLanes) of `out`.
  void Store(int64_t row, EncodedTensor* out) const {
    const int64_t bytes = grids_[0]->packed_bytes();
    std::vector<uint8_t> packed(static_cast<size_t>(bytes * kLanes));
    for (size_t i = 0; i < grids_.size(); ++i) {
      grids_[i]->Pack(packed.data());
      StorePackedLanes(packed.data(), bytes, row, rows_, plan_.blocks()[i], out);
    }
  }

 private:
  BlockGrid* Grid(int64_t block) const { return grids_[static_cast<size_t>(block / width_)].get(); }

  // Values of n columns from c on have been chosen for `w`: keeps their errors, and the values
  // themselves where sweeps follow.
  void Keep(Scratch* scratch, int64_t c, int64_t n, const float* w, const float* values,
            float* errors) {
    for (int64_t i = 0; i < n * kLanes; ++i) scratch->errors[i] = w[i] - values[i];
    StoreLanes(scratch->errors.data(), rows_, n, errors, plan_.k());
    if (plan_.sweeps() != nullptr) std::copy_n(values, n * kLanes, values_.data() + c * kLanes);
  }

  const GptqPlan& plan_;
  const int64_t rows_;
  const int64_t width_;                            // columns of a block
  std::vector<std::unique_ptr<BlockGrid>> grids_;  // of each block: codes and scales
  LaneArray<float> values_;                        // [k], where sweeps follow
};

// Some rows of a matrix. Products are made for all of them at once.
class RowBlock {
 public:
  // w[rows, k]
  RowBlock(const Context& context, const GptqPlan& plan, const float* w, int64_t rows,
           ScratchPool* pool)
      : context_(context),
        plan_(plan),
        pool_(pool),
        cols_(plan.k()),
        rows_(rows),
        groups_(static_cast<size_t>(CeilDiv(rows, kLanes))),
        w_(static_cast<size_t>(rows * cols_)),
        errors_(w_.size()) {
    ParallelFor(context_, static_cast<int64_t>(groups_.size()), [&](int64_t i) {
      const int64_t count = std::min(kLanes, rows_ - i * kLanes);
      groups_[static_cast<size_t>(i)] = std::make_unique<RowGroup>(plan, count);
      for (int64_t r = i * kLanes; r < i * kLanes + count; ++r) {
        for (int64_t j = 0; j < cols_; ++j) {
          w_[static_cast<size_t>(r * cols_ + j)] =
              w[r * cols_ + plan.order()[static_cast<size_t>(j)]];
        }
      }
    });
  }

  // The rows become rows from `first` on of `out`.
  Status Run(int64_t first, EncodedTensor* out) {
    const int64_t width = plan_.block();
    const int64_t span = SpanOf(width);
    sums_.resize(static_cast<size_t>(rows_ * span));
    for (int64_t at = 0; at < cols_; at += span) {
      if (context_.Cancelled()) return Error(ErrorCode::kInterrupted, "stopped");
      const int64_t end = std::min(cols_, at + span);
      std::fill(sums_.begin(), sums_.end(), 0.0f);
      if (width > kGptqPanel) {
        PW_TRY(LongBlock(at, end, span));
        continue;
      }
      PW_ASSIGN(const FactorView::Strip r, plan_.r().Read(context_, 0, end, at, end - at, &strip_));
      AddEarlier(r, 0, at, end - at, sums_.data(), span);
      const FactorView::Strip own{r.At(at, 0), r.stride};
      EachGroup([&](int64_t i, RowGroup* group, Scratch* scratch) {
        group->CodeBlocks(scratch, at, end, own, Weights(i) + at, Sums(i, span), span,
                          Errors(i) + at);
      });
    }
    if (plan_.sweeps() != nullptr) PW_TRY(Sweep());
    ParallelFor(context_, static_cast<int64_t>(groups_.size()), [&](int64_t i) {
      groups_[static_cast<size_t>(i)]->Store(first + i * kLanes, out);
    });
    return OkStatus();
  }

 private:
  const float* Weights(int64_t group) const { return w_.data() + group * kLanes * cols_; }
  float* Errors(int64_t group) { return errors_.data() + group * kLanes * cols_; }
  const float* Sums(int64_t group, int64_t span) const {
    return sums_.data() + group * kLanes * span;
  }
  void EachGroup(const std::function<void(int64_t, RowGroup*, Scratch*)>& work) {
    ParallelFor(context_, static_cast<int64_t>(groups_.size()), [&](int64_t i) {
      std::unique_ptr<Scratch> scratch = pool_->Take();
      work(i, groups_[static_cast<size_t>(i)].get(), scratch.get());
      pool_->Return(std::move(scratch));
    });
  }

  // sums[rows, n], `span` floats between rows, grow by the product of the errors of columns
  // [k0, k1) with r, a strip of n columns that begins at row k0.
  void AddEarlier(const FactorView::Strip& r, int64_t k0, int64_t k1, int64_t n, float* sums,
                  int64_t span) {
    if (k1 == k0) return;
    GemmNnArgs args;
    args.m = rows_;
    args.n = n;
    args.k = k1 - k0;
    args.a = errors_.data() + k0;
    args.a_stride = cols_;
    args.b = r.data;
    args.b_stride = r.stride;
    args.c = sums;
    args.c_stride = span;
    args.accumulate = true;
    GemmNn(context_, args);
  }

  // A block longer than a panel: scales are fitted once, then panel by panel.
  Status LongBlock(int64_t block, int64_t end, int64_t span) {
    for (int64_t from = block; block > 0 && from < end; from += kGptqPanel) {
      const int64_t n = std::min(end, from + kGptqPanel) - from;
      PW_ASSIGN(const FactorView::Strip r, plan_.r().Read(context_, 0, block, from, n, &strip_));
      AddEarlier(r, 0, block, n, sums_.data() + (from - block), span);
    }
    EachGroup([&](int64_t i, RowGroup* group, Scratch* scratch) {
      group->FitLongBlock(scratch, block, Weights(i) + block, Sums(i, span), span);
    });
    for (int64_t from = block; from < end; from += kGptqPanel) {
      const int64_t n = std::min(end, from + kGptqPanel) - from;
      PW_ASSIGN(const FactorView::Strip r,
                plan_.r().Read(context_, block, from + n - block, from, n, &strip_));
      AddEarlier(r, block, from, n, sums_.data() + (from - block), span);
      const FactorView::Strip own{r.At(from - block, 0), r.stride};
      EachGroup([&](int64_t i, RowGroup* group, Scratch* scratch) {
        group->CodeLongBlock(scratch, block, from, n, own, Weights(i) + from,
                             Sums(i, span) + (from - block), span, Errors(i) + from);
      });
    }
    return OkStatus();
  }

  Status Sweep() {
    // From the errors e to u = e R in place: from the right, since R is upper triangular.
    std::vector<float> panel(static_cast<size_t>(rows_ * std::min(cols_, kGptqPanel)));
    for (int64_t begin = (cols_ - 1) / kGptqPanel * kGptqPanel; begin >= 0; begin -= kGptqPanel) {
      const int64_t n = std::min(kGptqPanel, cols_ - begin);
      PW_ASSIGN(const FactorView::Strip r,
                plan_.r().Read(context_, 0, begin + n, begin, n, &strip_));
      GemmNnArgs args;
      args.m = rows_;
      args.n = n;
      args.k = begin + n;
      args.a = errors_.data();
      args.a_stride = cols_;
      args.b = r.data;
      args.b_stride = r.stride;
      args.c = panel.data();
      args.c_stride = n;
      GemmNn(context_, args);
      for (int64_t row = 0; row < rows_; ++row) {
        std::copy_n(panel.data() + row * n, n, errors_.data() + row * cols_ + begin);
      }
    }
    return RunSweeps(
        context_, *plan_.sweeps(), rows_, plan_.sweep_count(), errors_.data(),
        [&](int64_t i, const SweepPlan::Panel& columns, const float* slopes, float* moves) {
          std::unique_ptr<Scratch> scratch = pool_->Take();
          const bool moved =
              groups_[static_cast<size_t>(i)]->Sweep(scratch.get(), columns, slopes, moves);
          pool_->Return(std::move(scratch));
          return moved;
        });
  }

  const Context& context_;
  const GptqPlan& plan_;
  ScratchPool* pool_;
  const int64_t cols_, rows_;
  std::vector<std::unique_ptr<RowGroup>> groups_;
  std::vector<float> w_;       // [rows, cols] in the order of coding
  std::vector<float> errors_;  // the same: w - q, then (w - q) R
  std::vector<float> sums_;    // [rows, span]: sum of e_k R[k,j]
  std::vector<float> strip_;   // of R, where it lies in panels
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
  PW_TRY(
      ParallelTry(context, rows, [&](int64_t r) { return CheckFiniteRow(w + r * cols, cols, r); }));
  ScratchPool pool(plan);
  for (int64_t first = 0; first < rows; first += kMostRows) {
    const int64_t count = std::min(kMostRows, rows - first);
    PW_TRY(RowBlock(context, plan, w + first * cols, count, &pool).Run(first, out));
  }
  return OkStatus();
}

Status QuantizeGptq(const Context& context, const Encoding& encoding, const HessianFactor& factor,
                    const float* w, int64_t rows, int64_t cols, EncodedTensor* out, Effort effort) {
  if (factor.r.k() != cols) {
    return Error(ErrorCode::kUnsupported, "a factor of " + std::to_string(factor.r.k()) +
                                              " columns for rows of " + std::to_string(cols));
  }
  PW_ASSIGN(const auto plan, GptqPlan::Make(context, encoding, factor, effort));
  return QuantizeGptq(context, *plan, w, rows, out);
}

}  // namespace pennyweight
