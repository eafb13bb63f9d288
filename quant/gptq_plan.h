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

  // Wider inputs, and those whose factor lies in panels, are coded in the order of their columns: a
  // factor in another order would take 1 GiB and more beside the one there is.
  static constexpr int64_t kMostReordered = 16384;

  const Encoding& encoding() const { return encoding_; }
  Effort effort() const { return effort_; }
  int64_t k() const { return r_.k(); }
  int64_t block() const { return k() / static_cast<int64_t>(blocks_.size()); }  // its columns
  // All of these are in the order of coding.
  const FactorView& r() const { return r_; }
  const std::vector<int32_t>& order() const { return order_; }    // column of each place
  const std::vector<int32_t>& blocks() const { return blocks_; }  // where each block is stored
  // Columns from c on; `r`: the element on the diagonal there, of a strip.
  CodedColumns Columns(int64_t c, const float* r, int64_t stride) const {
    return {r, stride, inverse_diagonal_.data() + c, importance_.data() + c / block() * block(),
            places_.data() + c};
  }
  int sweep_count() const { return sweep_count_; }
  const SweepPlan* sweeps() const { return sweeps_ ? &*sweeps_ : nullptr; }

 private:
  explicit GptqPlan(const FactorView& r) : r_(r) {}

  Encoding encoding_;
  Effort effort_ = Effort::kNormal;
  FactorView r_;
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
