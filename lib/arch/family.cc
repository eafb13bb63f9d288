#include "lib/arch/family.h"

#include <array>
#include <charconv>
#include <optional>

#include "lib/arch/llama.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

constexpr std::string_view kLayerMark = "{}";

// The layer for which `pattern` gives `name`; -1 when the pattern has no layer; nullopt when the
// name is not of this pattern. "0" and "12" are layers, "007" and "+1" are not: two names must
// never mean one tensor.
std::optional<int64_t> Match(std::string_view pattern, std::string_view name) {
  const size_t mark = pattern.find(kLayerMark);
  if (mark == std::string_view::npos) {
    if (pattern == name) return -1;
    return std::nullopt;
  }
  const std::string_view prefix = pattern.substr(0, mark);
  const std::string_view suffix = pattern.substr(mark + kLayerMark.size());
  if (name.size() <= prefix.size() + suffix.size()) return std::nullopt;
  if (!name.starts_with(prefix) || !name.ends_with(suffix)) return std::nullopt;
  const std::string_view digits =
      name.substr(prefix.size(), name.size() - prefix.size() - suffix.size());
  if (digits[0] < '0' || digits[0] > '9' || (digits[0] == '0' && digits.size() > 1)) {
    return std::nullopt;
  }
  int64_t layer = 0;
  const auto [end, error] = std::from_chars(digits.begin(), digits.end(), layer);
  if (error != std::errc() || end != digits.end() || layer >= limits::kLayers) return std::nullopt;
  return layer;
}

TensorPlace PlaceOf(const Family& family, std::string_view name,
                    std::string_view TensorRule::*dialect) {
  for (const TensorRule& rule : family.tensors) {
    if (const auto layer = Match(rule.*dialect, name)) return {&rule, *layer};
  }
  return {};
}

bool Contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

}  // namespace

std::string_view RoleName(Role role) {
  constexpr std::array<std::string_view, 15> kNames = {
      "embedding",   "attn_q",   "attn_k", "attn_v",      "attn_qkv",
      "attn_output", "ffn_gate", "ffn_up", "ffn_gate_up", "ffn_down",
      "router",      "norm",     "head",   "bias",        "other"};
  static_assert(kNames.size() == static_cast<size_t>(Role::kOther) + 1);
  return kNames[static_cast<size_t>(role)];
}

bool IsLayerLinear(Role role) {
  switch (role) {
    case Role::kAttnQ:
    case Role::kAttnK:
    case Role::kAttnV:
    case Role::kAttnQkv:
    case Role::kAttnOutput:
    case Role::kFfnGate:
    case Role::kFfnUp:
    case Role::kFfnGateUp:
    case Role::kFfnDown:
      return true;
    case Role::kEmbedding:
    case Role::kRouter:
    case Role::kNorm:
    case Role::kHead:
    case Role::kBias:
    case Role::kOther:
      return false;
  }
  return false;
}

std::span<const Family> Families() { return {&LlamaFamily(), 1}; }

const Family* FindFamily(std::string_view name) {
  for (const Family& family : Families()) {
    if (family.name == name) return &family;
  }
  return nullptr;
}

const Family* FindFamilyByHf(std::string_view architecture, std::string_view model_type) {
  for (const Family& family : Families()) {
    // The architecture decides: LlamaForSequenceClassification has model type "llama" too, but no
    // head. The model type speaks only where no architecture is given.
    const bool match = architecture.empty() ? family.hf_model_type == model_type
                                            : family.hf_architecture == architecture;
    if (match) return &family;
  }
  return nullptr;
}

const Family* FindFamilyByGguf(std::string_view architecture) {
  for (const Family& family : Families()) {
    if (family.gguf_architecture == architecture) return &family;
  }
  return nullptr;
}

TensorPlace PlaceOfHf(const Family& family, std::string_view name) {
  return PlaceOf(family, name, &TensorRule::hf);
}

TensorPlace PlaceOfGguf(const Family& family, std::string_view name) {
  return PlaceOf(family, name, &TensorRule::gguf);
}

std::string NameFor(std::string_view pattern, int64_t layer, int64_t) {
  const size_t mark = pattern.find(kLayerMark);
  if (mark == std::string_view::npos) return std::string(pattern);
  std::string name(pattern.substr(0, mark));
  name += std::to_string(layer);
  name += pattern.substr(mark + kLayerMark.size());
  return name;
}

Role GuessRole(std::string_view name, size_t rank) {
  if (name.ends_with(".bias") || name.ends_with("_bias") || name == "bias") return Role::kBias;
  if (rank <= 1) {
    // ln_1, ln_f (GPT-2), norm, layernorm (most others).
    return Contains(name, "norm") || Contains(name, "ln_") ? Role::kNorm : Role::kOther;
  }
  if (rank != 2) return Role::kOther;
  for (const std::string_view part :
       {"embed_tokens", "tok_embeddings", "token_embd", "word_embeddings", "wte", "embed_in"}) {
    if (Contains(name, part)) return Role::kEmbedding;
  }
  if (Contains(name, "lm_head") || Contains(name, "embed_out") || name == "output.weight") {
    return Role::kHead;
  }
  return Role::kOther;
}

int64_t CanonicalRow(RowMap map, const ModelConfig& config, int64_t stored) {
  // A head of odd size has no halves to interleave; families refuse such a configuration.
  if (map == RowMap::kNone || config.head_dim < 2 || config.head_dim % 2 != 0) return stored;
  // q and k differ in the number of heads only, which the row does not depend on.
  const int64_t head = stored / config.head_dim;
  const int64_t inside = stored % config.head_dim;
  return head * config.head_dim + (inside % 2) * (config.head_dim / 2) + inside / 2;
}

}  // namespace pennyweight
