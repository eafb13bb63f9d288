#include "quant/gptq_plan.h"

#include <algorithm>
#include <string>
#include <utility>

namespace pennyweight {
namespace {

int SweepsOf(Effort effort) {
  return effort == Effort::kFast ? 0 : effort == Effort::kNormal ? 2 : 6;
}

}  // namespace

Result<std::unique_ptr<const GptqPlan>> GptqPlan::Make(const Context& context,
                                                       const Encoding& encoding,
                                                       const HessianFactor& factor, Effort effort,
                                                       std::optional<int> sweeps) {
  const int64_t k = factor.k;
  const auto grid = MakeGrid(encoding, k, effort);
  if (grid == nullptr) {
    return Error(ErrorCode::kUnsupported, "rows of " + std::to_string(k) +
                                              " columns cannot be written as " + encoding.Name());
  }
  std::unique_ptr<GptqPlan> plan(new GptqPlan);
  plan->encoding_ = encoding;
  plan->effort_ = effort;
  plan->k_ = k;
  plan->r_ = factor.r;
  std::vector<float> diagonal(static_cast<size_t>(k), 1.0f);
  if (k <= kMostReordered && !factor.importance.empty()) {
    diagonal.assign(factor.importance.begin(), factor.importance.end());
  }
  plan->order_ = GptqOrder(diagonal, *grid);
  if (!std::is_sorted(plan->order_.begin(), plan->order_.end())) {
    plan->reordered_ = ReorderFactor(context, factor.r, plan->order_, GptqPanel(*grid));
    plan->r_ = plan->reordered_.data();
  }
  const int64_t width = grid->block();
  for (int64_t j = 0; j < k; ++j) {
    const auto at = static_cast<size_t>(j);
    diagonal[at] = plan->r_[j * k + j];
    plan->inverse_diagonal_.push_back(1.0f / diagonal[at]);
    plan->places_.push_back(static_cast<int32_t>(plan->order_[at] % width));
    if (j % width == 0) {
      plan->blocks_.push_back(static_cast<int32_t>(plan->order_[at] / width));
    }
  }
  plan->importance_ = ScaleImportance(diagonal, plan->places_, width);
  plan->sweep_count_ = sweeps.value_or(SweepsOf(effort));
  if (plan->sweep_count_ > 0) plan->sweeps_.emplace(context, plan->r_, plan->places_, *grid);
  return std::unique_ptr<const GptqPlan>(std::move(plan));
}

}  // namespace pennyweight
