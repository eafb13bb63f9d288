// What gptq makes of a factor and a type before it sees a row: the order of columns and the factor
// in that order, and the blocks of H that sweeps need. For inputs of k columns it takes some k^2
// products per 128 columns: worth keeping for all tiles of a matrix.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "lib/context.h"
#include "lib/encoding.h"
#include "lib/result.h"
#include "lib/tensor.h"
#include "quant/gptq_block.h"
#include "quant/gptq_sweep.h"
#include "quant/method.h"

namespace pennyweight {

class GptqPlan {
 public:
  // `factor` must outlive the plan. `sweeps`: other than the effort's own number of them. Errors:
  // kUnsupported when rows of its width cannot be written.
  static Result<std::unique_ptr<const GptqPlan>> Make(const Context& context,
                                                      const Encoding& encoding,
                                                      const HessianFactor& factor,
                                                      Effort effort = Effort::kNormal,
                                                      std::optional<int> sweeps = std::nullopt);

  // Wider inputs are coded in the order of their columns: a factor in another order would take more
  // than 1 GiB beside the one there is.
  static constexpr int64_t kMostReordered = 16384;

  const Encoding& encoding() const { return encoding_; }
  Effort effort() const { return effort_; }
  int64_t k() const { return k_; }
  int64_t block() const { return k_ / static_cast<int64_t>(blocks_.size()); }  // its columns
  // All of these are in the order of coding.
  const float* r() const { return r_; }
  const std::vector<int32_t>& order() const { return order_; }    // column of each place
  const std::vector<int32_t>& blocks() const { return blocks_; }  // where each block is stored
  CodedColumns Columns(int64_t block) const {
    return {r_ + block * k_ + block, k_, inverse_diagonal_.data() + block,
            importance_.data() + block, places_.data() + block};
  }
  int sweep_count() const { return sweep_count_; }
  const SweepPlan* sweeps() const { return sweeps_ ? &*sweeps_ : nullptr; }

 private:
  GptqPlan() = default;

  Encoding encoding_;
  Effort effort_ = Effort::kNormal;
  int64_t k_ = 0;
  const float* r_ = nullptr;
  std::vector<float> reordered_;
  std::vector<float> inverse_diagonal_;  // 1 / R[j,j]
  std::vector<float> importance_;        // ScaleImportance of each block
  std::vector<int32_t> order_, places_, blocks_;
  int sweep_count_ = 0;
  std::optional<SweepPlan> sweeps_;
};

// QuantizeGptq for w[rows, plan.k()].
Status QuantizeGptq(const Context& context, const GptqPlan& plan, const float* w, int64_t rows,
                    EncodedTensor* out);

}  // namespace pennyweight
