#include "lib/arch/family.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "lib/arch/llama.h"
#include "lib/arch/mixtral.h"
#include "lib/arch/qwen2.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

constexpr std::string_view kMark = "{}";

// Reads a number from the front of `text`. "0" and "12" are numbers, "007" and "+1" are not: two
// names must never mean one tensor.
std::optional<int64_t> TakeNumber(std::string_view* text, int64_t limit) {
  size_t digits = 0;
  while (digits < text->size() && (*text)[digits] >= '0' && (*text)[digits] <= '9') ++digits;
  if (digits == 0 || ((*text)[0] == '0' && digits > 1)) return std::nullopt;
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + digits, number);
  if (error != std::errc() || end != text->data() + digits || number >= limit) return std::nullopt;
  text->remove_prefix(digits);
  return number;
}

// Layer and expert for which `pattern` gives `name`, -1 where the pattern has no such mark; nullopt
// when the name is not of this pattern.
std::optional<TensorPlace> Match(std::string_view pattern, std::string_view name) {
  TensorPlace place;
  for (int64_t* number : {&place.layer, &place.expert}) {
    const size_t mark = pattern.find(kMark);
    if (mark == std::string_view::npos) break;
    if (!name.starts_with(pattern.substr(0, mark))) return std::nullopt;
    name.remove_prefix(mark);
    pattern.remove_prefix(mark + kMark.size());
    const int64_t limit = number == &place.layer ? limits::kLayers : limits::kExperts;
    const auto taken = TakeNumber(&name, limit);
    if (!taken) return std::nullopt;
    *number = *taken;
  }
  if (pattern != name) return std::nullopt;
  return place;
}

TensorPlace PlaceOf(const Family& family, std::string_view name,
                    std::string_view TensorRule::*dialect) {
  for (const TensorRule& rule : family.tensors) {
    if (auto place = Match(rule.*dialect, name)) {
      place->rule = &rule;
      return *place;
    }
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

std::span<const Family> Families() {
  static const std::array<Family, 4> kFamilies = {LlamaFamily(), MistralFamily(), MixtralFamily(),
                                                  Qwen2Family()};
  return kFamilies;
}

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

// The first of those that share an architecture's name: a mistral in GGUF is a llama.
const Family* FindFamilyByGguf(std::string_view architecture, bool experts) {
  for (const Family& family : Families()) {
    if (family.gguf_architecture == architecture && HasExperts(family) == experts) return &family;
  }
  return nullptr;
}

bool SameComputation(const Family& a, const Family& b) {
  return a.tensors.data() == b.tensors.data() && a.layer.data() == b.layer.data();
}

bool IsExpertRule(const TensorRule& rule) {
  const size_t layer = rule.hf.find(kMark);
  return layer != std::string_view::npos &&
         rule.hf.find(kMark, layer + kMark.size()) != std::string_view::npos;
}

bool HasExperts(const Family& family) {
  return std::any_of(family.tensors.begin(), family.tensors.end(), IsExpertRule);
}

TensorPlace PlaceOfHf(const Family& family, std::string_view name) {
  return PlaceOf(family, name, &TensorRule::hf);
}

TensorPlace PlaceOfGguf(const Family& family, std::string_view name) {
  return PlaceOf(family, name, &TensorRule::gguf);
}

std::string NameFor(std::string_view pattern, int64_t layer, int64_t expert) {
  std::string name;
  for (const int64_t number : {layer, expert}) {
    const size_t mark = pattern.find(kMark);
    if (mark == std::string_view::npos) break;
    name += pattern.substr(0, mark);
    name += std::to_string(number);
    pattern.remove_prefix(mark + kMark.size());
  }
  name += pattern;
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
