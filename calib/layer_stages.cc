#include "calib/layer_stages.h"

namespace pennyweight {
namespace {

std::string_view RoleNameOf(const Family& family, std::string_view pattern) {
  for (const TensorRule& rule : family.tensors) {
    if (rule.hf == pattern) return RoleName(rule.role);
  }
  return RoleName(Role::kOther);
}

}  // namespace

std::vector<LayerStage> LayerStages(const Family& family) {
  std::vector<LayerStage> stages;
  size_t keep = 0;
  for (size_t i = 0; i < family.layer.size(); ++i) {
    const Step& step = family.layer[i];
    // Behind an addition to the hidden states nothing else is alive.
    if (step.kind == StepKind::kAdd) keep = i + 1;
    if (step.kind != StepKind::kLinear && step.kind != StepKind::kExpertLinear) continue;
    const bool same = !stages.empty() && stages.back().linears.back() == &step - 1 &&
                      stages.back().linears.back()->in == step.in;
    if (!same) {
      LayerStage stage;
      stage.input = step.in;
      stage.experts = step.kind == StepKind::kExpertLinear;
      stage.first_step = i;
      stage.keep = keep;
      stage.name = RoleNameOf(family, step.weight);
      stages.push_back(std::move(stage));
    }
    stages.back().linears.push_back(&step);
  }
  return stages;
}

}  // namespace pennyweight
