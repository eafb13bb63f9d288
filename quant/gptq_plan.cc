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
  const int64_t k = factor.r.k();
  const auto grid = MakeGrid(encoding, k, effort);
  if (grid == nullptr) {
    return Error(ErrorCode::kUnsupported, "rows of " + std::to_string(k) +
                                              " columns cannot be written as " + encoding.Name());
  }
  std::unique_ptr<GptqPlan> plan(new GptqPlan(factor.r));
  plan->encoding_ = encoding;
  plan->effort_ = effort;
  std::vector<float> diagonal(static_cast<size_t>(k), 1.0f);
  const float* array = factor.r.array();
  if (k <= kMostReordered && array != nullptr && !factor.importance.empty()) {
    diagonal.assign(factor.importance.begin(), factor.importance.end());
  }
  plan->order_ = GptqOrder(diagonal, *grid);
  if (!std::is_sorted(plan->order_.begin(), plan->order_.end())) {
    plan->reordered_ = ReorderFactor(context, array, plan->order_, GptqPanel(*grid));
    plan->r_ = FactorView(k, plan->reordered_.data());
  }
  std::vector<float> buffer;
  for (int64_t at = 0; at < k; at += kGptqPanel) {
    const int64_t n = std::min(kGptqPanel, k - at);
    PW_ASSIGN(const FactorView::Strip strip, plan->r_.Read(context, at, n, at, n, &buffer));
    for (int64_t j = 0; j < n; ++j) diagonal[static_cast<size_t>(at + j)] = *strip.At(j, j);
  }
  const int64_t width = grid->block();
  for (int64_t j = 0; j < k; ++j) {
    const auto at = static_cast<size_t>(j);
    plan->inverse_diagonal_.push_back(1.0f / diagonal[at]);
    plan->places_.push_back(static_cast<int32_t>(plan->order_[at] % width));
    if (j % width == 0) {
      plan->blocks_.push_back(static_cast<int32_t>(plan->order_[at] / width));
    }
  }
  plan->importance_ = ScaleImportance(diagonal, plan->places_, width);
  plan->sweep_count_ = sweeps.value_or(SweepsOf(effort));
  if (plan->sweep_count_ > 0) {
    PW_ASSIGN(plan->sweeps_, SweepPlan::Make(context, plan->r_, plan->places_, *grid));
  }
  return std::unique_ptr<const GptqPlan>(std::move(plan));
}

}  // namespace pennyweight
