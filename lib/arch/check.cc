#include "lib/arch/check.h"

#include <fmt/format.h>

#include <unordered_set>

namespace pennyweight {
namespace {

constexpr std::string_view kBias = ".bias";
constexpr std::string_view kWeight = ".weight";
constexpr size_t kMissing = 100;  // that are named

// A bias has the rows of its matrix.
Shape ShapeOfTensor(const Family& family, const TensorPlace& place, const ModelConfig& config) {
  const std::string_view pattern = place.rule->hf;
  if (place.rule->role != Role::kBias) return ExpectedShape(place.rule->role, config);
  if (!pattern.ends_with(kBias)) return {};
  std::string matrix(pattern.substr(0, pattern.size() - kBias.size()));
  matrix += kWeight;
  for (const TensorRule& rule : family.tensors) {
    const Shape shape = rule.hf == matrix ? ExpectedShape(rule.role, config) : Shape();
    if (!shape.empty()) return {shape[0]};
  }
  return {};
}

// Tables that old versions of transformers saved, and that every reader computes anew.
bool IsComputed(std::string_view name) {
  return name.ends_with("rotary_emb.inv_freq") || name.ends_with(".attention.bias") ||
         name.ends_with(".masked_bias") || name.ends_with(".position_ids");
}

// Parts of a quantized matrix whose layout was not put together: no tensors of their own.
bool IsPart(std::string_view name) {
  for (const std::string_view suffix :
       {"_scale", "_packed", "_zero_point", "_shape", "_g_idx", "_scale_inv", "_global_scale",
        ".qweight", ".qzeros", ".scales", ".g_idx", ".biases", ".absmax", ".quant_map", ".SCB",
        ".input_scale", ".output_scale", ".k_scale", ".v_scale"}) {
    if (name.ends_with(suffix)) return true;
  }
  return false;
}

Finding About(std::string_view rule, const TensorInfo& info, std::string message) {
  return {.rule = rule,
          .message = std::move(message),
          .file = info.file,
          .tensor = info.name,
          .offset = static_cast<int64_t>(info.offset)};
}

void CheckMissing(const Model& model, const std::unordered_set<std::string_view>& names,
                  std::vector<Finding>* findings) {
  const Family& family = *model.family;
  size_t missing = 0;
  const auto require = [&](const TensorRule& rule, int64_t layer, int64_t expert) {
    const std::string name = NameFor(rule.hf, layer, expert);
    if (names.contains(name) || ++missing > kMissing) return;
    findings->push_back({.rule = "CFG-TENSOR-MISSING",
                         .message = fmt::format("the {} family needs this tensor", family.name),
                         .file = model.path,
                         .tensor = name});
  };
  for (const TensorRule& rule : family.tensors) {
    if (!rule.required || (rule.hf == family.head && model.config->tie_embeddings)) continue;
    const bool layered = rule.hf.find("{}") != std::string_view::npos;
    const int64_t layers = layered ? model.config->layers : 1;
    const int64_t experts = IsExpertRule(rule) ? model.config->experts : 1;
    for (int64_t i = 0; i < layers * experts && missing <= kMissing; ++i) {
      require(rule, i / experts, i % experts);
    }
  }
}

}  // namespace

Shape ExpectedShape(Role role, const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t q = config.heads * config.head_dim;
  const int64_t kv = config.kv_heads * config.head_dim;
  switch (role) {
    case Role::kEmbedding:
    case Role::kHead:
      return {config.vocab_size, hidden};
    case Role::kAttnQ:
      return {q, hidden};
    case Role::kAttnK:
    case Role::kAttnV:
      return {kv, hidden};
    case Role::kAttnQkv:
      return {q + 2 * kv, hidden};
    case Role::kAttnOutput:
      return {hidden, q};
    case Role::kFfnGate:
    case Role::kFfnUp:
      return {config.intermediate_size, hidden};
    case Role::kFfnGateUp:
      return {2 * config.intermediate_size, hidden};
    case Role::kFfnDown:
      return {hidden, config.intermediate_size};
    case Role::kNorm:
      return {hidden};
    case Role::kRouter:
      if (config.experts > 0) return {config.experts, hidden};
      break;
    case Role::kBias:
    case Role::kOther:
      break;
  }
  return {};
}

std::vector<Finding> CheckFamily(const Model& model) {
  std::vector<Finding> findings;
  // Files of a vocabulary alone have no tensors at all.
  if (model.family == nullptr || !model.config || model.source->tensors().empty()) return findings;
  std::unordered_set<std::string_view> names;
  bool parts = false;
  for (const TensorInfo& info : model.source->tensors()) {
    names.insert(info.name);
    const TensorPlace place = PlaceOfHf(*model.family, info.name);
    if (place.rule == nullptr) {
      parts |= IsPart(info.name);
      if (IsComputed(info.name) || IsPart(info.name)) continue;
      findings.push_back(
          About("CFG-TENSOR-UNEXPECTED", info,
                fmt::format("the {} family has no such tensor", model.family->name)));
      continue;
    }
    if (place.layer >= model.config->layers) {
      findings.push_back(
          About("CFG-TENSOR-UNEXPECTED", info,
                fmt::format("the configuration has {} layers", model.config->layers)));
      continue;
    }
    if (place.expert >= model.config->experts) {
      findings.push_back(
          About("CFG-TENSOR-UNEXPECTED", info,
                fmt::format("the configuration has {} experts", model.config->experts)));
      continue;
    }
    const Shape expected = ShapeOfTensor(*model.family, place, *model.config);
    if (expected.empty() || expected == info.shape) continue;
    findings.push_back(About("CFG-SHAPE", info,
                             fmt::format("its shape is {}, the configuration says {}",
                                         ShapeToString(info.shape), ShapeToString(expected))));
  }
  // With loose parts of quantized matrices, what is missing cannot be told.
  if (!parts) CheckMissing(model, names, &findings);
  return findings;
}

}  // namespace pennyweight
