// One row per model family: tensor names in both dialects, roles, row maps, and the decoder layer
// as a list of steps. formats names by it, mixes choose by it, calib runs by it. To add a family:
// a file beside this one and a row in family.cc.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "lib/model_config.h"

namespace pennyweight {

enum class Role : uint8_t {
  kEmbedding,
  kAttnQ,
  kAttnK,
  kAttnV,
  kAttnQkv,
  kAttnOutput,
  kFfnGate,
  kFfnUp,
  kFfnGateUp,
  kFfnDown,
  kRouter,
  kNorm,
  kHead,
  kBias,
  kOther,
};
// "attn_q", ...: the `role` of a report row.
std::string_view RoleName(Role role);
// True for the matrices of the decoder layers that quantizing is about (attn_*, ffn_*).
bool IsLayerLinear(Role role);

// How GGUF orders the rows of a tensor relative to Hugging Face. kRopeQ/kRopeK: inside each head
// of head_dim rows, [2][head_dim/2] becomes [head_dim/2][2] (heads of q, heads of k).
enum class RowMap : uint8_t { kNone, kRopeQ, kRopeK };

// The marks {} of a pattern are the layer and, where there is a second one, the expert. GGUF keeps
// the experts of a layer in one tensor: its pattern has no second mark.
struct TensorRule {
  std::string_view hf;    // "model.layers.{}.self_attn.q_proj.weight"
  std::string_view gguf;  // "blk.{}.attn_q.weight"
  Role role;
  RowMap row_map;
  bool required;  // the model does not run without it (the head: unless tied)
};

// Values in flight inside a decoder layer, one row per token; in kExpert* one row per token of each
// expert, grouped by expert.
enum class Slot : uint8_t {
  kHidden,
  kNormed,
  kQ,
  kK,
  kV,
  kAttn,
  kGate,
  kUp,
  kGated,
  kDelta,
  kRouterLogits,
  kExpertIn,
  kExpertGate,
  kExpertUp,
  kExpertGated,
  kExpertDelta,
  kNone,
};

enum class StepKind : uint8_t {
  kRmsNorm,    // out = in * weight / rms(in)
  kLinear,     // out = in * W^T (+ bias when the file has one)
  kRope,       // out = in rotated by position, in place (in == out), heads of head_dim
  kAttention,  // out = softmax(q k^T / sqrt(head_dim)) v, causal, from kQ kK kV
  kSiluGate,   // out = silu(in) * in2
  kAdd,        // out += in
  // softmax of in (the router's logits), its best experts_per_token, renormalised to sum 1;
  // out = rows of in2, gathered for each expert.
  kRoute,
  kExpertLinear,  // out = in * W^T, each expert's rows with its own matrix
  kExpertSum,     // out = sum of each token's rows of in, times their routing weights
};

struct Step {
  StepKind kind;
  Slot in;
  Slot out;
  Slot in2 = Slot::kNone;
  std::string_view weight = {};  // kRmsNorm, kLinear, kExpertLinear: the rule's hf pattern
};

struct Family {
  std::string_view name;               // "llama"
  std::string_view hf_architecture;    // "LlamaForCausalLM"
  std::string_view hf_model_type;      // "llama"
  std::string_view gguf_architecture;  // "llama"
  std::span<const TensorRule> tensors;
  std::span<const Step> layer;  // one decoder layer: kHidden in, kHidden out
  std::string_view embedding;   // hf names of the rest of the model
  std::string_view final_norm;
  std::string_view head;  // absent from the file when embeddings are tied
};

std::span<const Family> Families();
const Family* FindFamily(std::string_view name);  // by row name; nullptr if none
const Family* FindFamilyByHf(std::string_view architecture, std::string_view model_type);
// `experts`: the model has some (expert_count > 0), which general.architecture does not tell.
const Family* FindFamilyByGguf(std::string_view architecture, bool experts = false);
// The same tensors and the same steps: what differs is the name.
bool SameComputation(const Family& a, const Family& b);
// True when the rule's tensor is one expert's.
bool IsExpertRule(const TensorRule& rule);
bool HasExperts(const Family& family);

// A tensor's place in its family.
struct TensorPlace {
  const TensorRule* rule = nullptr;  // nullptr: the family does not know the name
  int64_t layer = -1;                // -1: not in a decoder layer
  int64_t expert = -1;               // -1: of no expert, or GGUF's tensor of all of them
};
TensorPlace PlaceOfHf(const Family& family, std::string_view name);
TensorPlace PlaceOfGguf(const Family& family, std::string_view name);
// The rule's name for a layer and expert (marks replaced).
std::string NameFor(std::string_view pattern, int64_t layer, int64_t expert = -1);
// Role by name alone, for models of no known family (norm, bias, embedding, head, other).
Role GuessRole(std::string_view name, size_t rank);

// The row of the canonical (Hugging Face) tensor that stands at row `stored` of the GGUF one.
int64_t CanonicalRow(RowMap map, const ModelConfig& config, int64_t stored);

}  // namespace pennyweight
