// GPTQ from one factor. With H + damp = R R^T (R upper triangular) the quadratic error of a row is
//   e H e^T = sum_j R[j,j]^2 (t_j - q_j)^2,   t_j = w_j + (sum_{k<j} e_k R[k,j]) / R[j,j],
// where e = w - q and w are the original weights. Codes are chosen from left to right, each nearest
// to its target t_j; that is GPTQ without an inverse and without rewriting the weights.
//
// Columns are walked in spans (a few blocks, or one long block) of panels. What earlier columns add
// to a panel is a matrix product; inside a panel it is plain loops along rows of R.
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
#include "quant/method.h"
#include "quant/method_checks.h"

namespace pennyweight {
namespace {

constexpr int64_t kRowsPerTask = 64;  // constants of the algorithm, not of the machine
constexpr int64_t kPanel = 256;       // columns between two matrix products
constexpr int kPasses = 3;            // fits of one block; see FitAndCode

// What all tasks share: the factor, taken apart.
struct Factor {
  const float* r;
  int64_t k;
  std::vector<float> inverse_diagonal;  // 1 / R[j,j]
  std::vector<float> conditional;       // R[j,j]^2: what an error against the target t_j costs
};

// The rows of one task, quantized together.
class RowBlock {
 public:
  RowBlock(const Context& context, const Encoding& encoding, const Factor& factor, const float* w,
           int64_t first, int64_t rows, EncodedTensor* out)
      : context_(context),
        factor_(factor),
        cols_(factor.k),
        w_(w),
        first_(first),
        rows_(rows),
        out_(out),
        errors_(static_cast<size_t>(kRowsPerTask * cols_)) {
    grids_.push_back(MakeGrid(encoding, cols_));
    width_ = grids_[0]->block();
    const int64_t more = width_ > kPanel ? rows - 1 : 1;
    for (int64_t i = 0; i < more; ++i) grids_.push_back(MakeGrid(encoding, cols_));
    span_ = width_ > kPanel ? width_ : kPanel / width_ * width_;
    sums_.resize(static_cast<size_t>(kRowsPerTask * span_));
    fit_weights_.resize(static_cast<size_t>(width_));
    const auto block = static_cast<size_t>(std::min(width_, kPanel));
    run_sums_.resize(block);
    for (Attempt& a : attempts_) {
      a.targets.resize(block);
      a.errors.resize(block);
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
        for (int64_t r = 0; r < rows_; ++r) ShortBlocks(r, at, end);
      }
    }
    return OkStatus();
  }

 private:
  // One coding of a block: what each column aimed at and missed by.
  struct Attempt {
    double loss = 0;
    std::vector<float> targets;
    std::vector<float> errors;
  };

  const float* Weights(int64_t r) const { return w_ + (first_ + r) * cols_; }
  float* Errors(int64_t r) { return errors_.data() + r * cols_; }
  float* Sums(int64_t r) { return sums_.data() + r * span_; }

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

  float Target(const float* w, const float* sums, int64_t sums_from, int64_t c) const {
    const auto at = static_cast<size_t>(c);
    return w[c] + sums[c - sums_from] * factor_.inverse_diagonal[at];
  }

  // What an error against a target costs is R[j,j]^2, not H[j,j]: columns to the right make good
  // the rest. As the weight of scale fits it gives about half a percent less held-out error.
  std::span<const float> Importance(int64_t c, int64_t n) const {
    return std::span<const float>(factor_.conditional)
        .subspan(static_cast<size_t>(c), static_cast<size_t>(n));
  }

  // Codes columns [c0, c1) of a row whose block begins at `block`. sums[c - c0] holds what columns
  // before c0 add; it is advanced to c1's view of the panel.
  void Code(BlockGrid* grid, const float* w, int64_t block, int64_t c0, int64_t c1, float* sums,
            bool subs, Attempt* attempt) const {
    const int64_t sub = grid->sub_block();
    attempt->loss = 0;
    for (int64_t c = c0; c < c1; ++c) {
      if (subs && (c - block) % sub == 0 && c > c0) {
        std::array<float, kPanel> now;
        for (int64_t i = 0; i < sub; ++i) now[static_cast<size_t>(i)] = Target(w, sums, c0, c + i);
        grid->BeginSubBlock((c - block) / sub, {now.data(), static_cast<size_t>(sub)},
                            Importance(c, sub));
      }
      const float target = Target(w, sums, c0, c);
      const float q = grid->Round(c - block, target);
      const float error = w[c] - q;
      const auto at = static_cast<size_t>(c - c0);
      attempt->targets[at] = target;
      attempt->errors[at] = error;
      const double miss = static_cast<double>(target) - q;
      attempt->loss +=
          static_cast<double>(factor_.conditional[static_cast<size_t>(c)]) * miss * miss;
      const float* r = factor_.r + c * cols_;
      for (int64_t k = c + 1; k < c1; ++k) sums[k - c0] += error * r[k];
    }
  }

  // Fits the scales of one block and codes it; the targets that its columns turned out to have are
  // known only then, so the scales are fitted again to those, and the attempt of least loss stays.
  // Returns the grid that holds it.
  const BlockGrid* FitAndCode(const float* w, int64_t block, const float* sums) {
    const int64_t end = block + width_;
    const bool subs = grids_[0]->sub_block() < width_;
    for (int64_t c = block; c < end; ++c) {
      fit_weights_[static_cast<size_t>(c - block)] = Target(w, sums, block, c);
    }
    size_t best = 0;
    for (int pass = 0; pass < kPasses; ++pass) {
      const size_t now = pass == 0 ? 0 : 1 - best;
      Attempt& attempt = attempts_[now];
      grids_[now]->BeginBlock(fit_weights_, Importance(block, width_), ScaleSearch::kSearch);
      std::copy(sums, sums + width_, run_sums_.begin());
      Code(grids_[now].get(), w, block, block, end, run_sums_.data(), subs, &attempt);
      if (pass > 0 && !(attempt.loss < attempts_[best].loss)) break;
      best = now;
      std::copy(attempt.targets.begin(), attempt.targets.begin() + width_, fit_weights_.begin());
    }
    best_ = best;
    return grids_[best].get();
  }

  void ShortBlocks(int64_t r, int64_t from, int64_t end) {
    const float* w = Weights(r);
    float* sums = Sums(r);
    for (int64_t block = from; block < end; block += width_) {
      const BlockGrid* grid = FitAndCode(w, block, sums + (block - from));
      grid->Pack(out_, first_ + r, block / width_);
      const Attempt& kept = attempts_[best_];
      std::copy(kept.errors.begin(), kept.errors.begin() + width_, Errors(r) + block);
      for (int64_t c = block; c < block + width_; ++c) {
        const float error = kept.errors[static_cast<size_t>(c - block)];
        const float* row = factor_.r + c * cols_;
        for (int64_t k = block + width_; k < end; ++k) sums[k - from] += error * row[k];
      }
    }
  }

  // A block longer than a panel: scales are fitted once, then panel by panel for all rows.
  void LongBlock(int64_t block, int64_t end) {
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = block; c < end; ++c) {
        fit_weights_[static_cast<size_t>(c - block)] = Target(Weights(r), Sums(r), block, c);
      }
      grids_[static_cast<size_t>(r)]->BeginBlock(fit_weights_, Importance(block, width_),
                                                 ScaleSearch::kSearch);
    }
    for (int64_t c0 = block; c0 < end; c0 += kPanel) {
      const int64_t c1 = std::min(end, c0 + kPanel);
      if (c0 > block) AddEarlier(block, c0, c0, c1, block);
      for (int64_t r = 0; r < rows_; ++r) {
        Code(grids_[static_cast<size_t>(r)].get(), Weights(r), block, c0, c1,
             Sums(r) + (c0 - block), false, &attempts_[0]);
        std::copy_n(attempts_[0].errors.begin(), c1 - c0, Errors(r) + c0);
      }
    }
    for (int64_t r = 0; r < rows_; ++r) {
      grids_[static_cast<size_t>(r)]->Pack(out_, first_ + r, block / width_);
    }
  }

  const Context& context_;
  const Factor& factor_;
  const int64_t cols_;
  const float* w_;
  const int64_t first_, rows_;
  EncodedTensor* out_;
  int64_t width_ = 0;                              // columns of a block
  int64_t span_ = 0;                               // columns of a span: whole blocks
  std::vector<std::unique_ptr<BlockGrid>> grids_;  // two, or one per row when blocks are long
  std::vector<float> errors_;                      // [kRowsPerTask, cols]: w - q
  std::vector<float> sums_;                        // [kRowsPerTask, span]: sum of e_k R[k,j]
  std::vector<float> fit_weights_;                 // [width]
  std::vector<float> run_sums_;
  std::array<Attempt, 2> attempts_;
  size_t best_ = 0;  // attempt of the last FitAndCode
};

}  // namespace

Status QuantizeGptq(const Context& context, const Encoding& encoding, const HessianFactor& factor,
                    const float* w, int64_t rows, int64_t cols, EncodedTensor* out) {
  if (MakeGrid(encoding, cols) == nullptr) {
    return Error(ErrorCode::kUnsupported, "rows of " + std::to_string(cols) +
                                              " columns cannot be written as " + encoding.Name());
  }
  Factor shared{factor.r, cols, {}, {}};
  shared.inverse_diagonal.resize(static_cast<size_t>(cols));
  shared.conditional.resize(static_cast<size_t>(cols));
  for (int64_t j = 0; j < cols; ++j) {
    const float d = factor.r[j * cols + j];
    shared.inverse_diagonal[static_cast<size_t>(j)] = 1.0f / d;
    shared.conditional[static_cast<size_t>(j)] = d * d;
  }
  *out = EncodedTensor::Allocate(encoding, rows, cols);
  return ParallelTry(context, CeilDiv(rows, kRowsPerTask), [&](int64_t task) -> Status {
    const int64_t first = task * kRowsPerTask;
    const int64_t count = std::min(kRowsPerTask, rows - first);
    for (int64_t r = first; r < first + count; ++r) PW_TRY(CheckFiniteRow(w + r * cols, cols, r));
    return RowBlock(context, encoding, shared, w, first, count, out).Run();
  });
}

}  // namespace pennyweight
