// Codes one block of kLanes rows under a triangular factor: what the first pass of gptq and its
// sweeps (quant/gptq_sweep.h) share.
//
// With H = R R^T of some columns (R upper triangular) the quadratic error of a row is
//   e H e^T = sum_j R[j,j]^2 (t_j - q_j)^2,   t_j = w_j + (sum_{k<j} e_k R[k,j]) / R[j,j],
// where e = w - q and w are the original weights. Codes are chosen from left to right, each nearest
// to its target t_j; that is GPTQ without an inverse and without rewriting the weights.
//
// Where a type codes several columns jointly, R[j,j] is the small upper triangle of those columns.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "quant/gptq_order.h"
#include "quant/grid.h"
#include "quant/lanes.h"

namespace pennyweight {

// Columns in the order in which they are coded. `places` says where in its block each is stored:
// columns keep their sub-blocks, and those their blocks.
struct CodedColumns {
  const float* r;        // top left element of their part of the factor
  int64_t stride;        // floats between its rows
  const float* inverse;  // 1 / R[j,j]
  // Of scale fits, [block] in the order of storage, from the block's first column on: see
  // ScaleImportance.
  const float* importance;
  const int32_t* places;

  CodedColumns From(int64_t c) const {
    return {r + c * stride + c, stride, inverse + c, importance, places + c};
  }
};

// R[j,j]^2, what an error against the target t_j costs, normalised within `width` columns: the
// weight of scale fits. (H[j,j] would weigh what columns to the right make good again: about half a
// percent more held-out error.) diagonal[n] of the factor and places[n] as they are coded; the
// result is in the order of storage.
std::vector<float> ScaleImportance(std::span<const float> diagonal, std::span<const int32_t> places,
                                   int64_t width);

// One coding of columns of kLanes rows: what each column aimed at and became, in lanes.
struct Attempt {
  std::array<double, kLanes> loss{};
  LaneArray<float> targets;
  LaneArray<float> values;
};

class BlockCoder {
 public:
  BlockCoder(const Encoding& encoding, int64_t cols, Effort effort);

  int64_t width() const { return width_; }
  int64_t sub_block() const { return grids_[0]->sub_block(); }
  int64_t unit() const { return grids_[0]->unit(); }

  // Weights or targets of columns in the order of coding, [n][kLanes], as a grid takes them. The
  // result lasts until the next call.
  const float* Stored(const float* coded, const int32_t* places, int64_t n);

  // Codes columns [c0, c1) of the block; columns, w and sums begin at c0; sums[j] = sum of e_k
  // R[k,j] over earlier columns, and is advanced. `subs`: sub-blocks behind c0 are fitted when
  // their turn comes.
  void Code(BlockGrid* grid, const CodedColumns& columns, int64_t c0, int64_t c1, const float* w,
            float* sums, bool subs, Attempt* attempt);

  // targets[n] of columns [0, n) as far as sums[n] know; all in lanes.
  static void Targets(const float* w, const float* sums, const CodedColumns& columns, int64_t n,
                      float* targets);

  // Fits the scales of one block and codes it; the targets that its columns turned out to have are
  // known only then, so the scales are fitted again to those, a few times. Each row keeps its
  // attempt of least loss, and drops out when another fit does not improve it. sums[width]: what
  // columns before the block add. The result goes to `grid`, and values[width][kLanes].
  // Returns |(t - q) R|^2 of each lane.
  // Precondition: width() <= kGptqPanel.
  std::array<double, kLanes> FitAndCode(const CodedColumns& columns, const float* w,
                                        const float* sums, BlockGrid* grid, float* values);

 private:
  static constexpr size_t kPasses = 3;  // fits of one block

  void UnitTargets(const CodedColumns& columns, const float* w, const float* sums, int64_t unit,
                   float* t) const;
  void AddLoss(const CodedColumns& columns, const float* t, const float* q, int64_t unit,
               Attempt* attempt) const;

  std::vector<std::unique_ptr<BlockGrid>> grids_;  // one per pass
  int64_t width_;
  std::array<Attempt, kPasses> attempts_;
  std::array<size_t, kLanes> best_{};  // attempt of each lane in the last FitAndCode
  LaneArray<float> run_sums_, fit_weights_, sub_weights_, stored_;
};

}  // namespace pennyweight
