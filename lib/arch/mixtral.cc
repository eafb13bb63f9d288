// Names: transformers' MixtralForCausalLM as its save_pretrained writes them (one matrix per
// expert: w1 is the gate, w3 up, w2 down), and llama.cpp's gguf tensor map, where the experts of a
// layer are one tensor [experts, rows, cols]. Steps: "Mixtral of Experts" (arXiv 2401.04088),
// section 2.1: softmax over the router's logits of the best experts, their weighted sum.
#include "lib/arch/mixtral.h"

#include <array>

#include "lib/arch/decoder.h"

namespace pennyweight {
namespace {

using namespace decoder;

constexpr std::string_view kRouter = "model.layers.{}.block_sparse_moe.gate.weight";
constexpr std::string_view kW1 = "model.layers.{}.block_sparse_moe.experts.{}.w1.weight";
constexpr std::string_view kW2 = "model.layers.{}.block_sparse_moe.experts.{}.w2.weight";
constexpr std::string_view kW3 = "model.layers.{}.block_sparse_moe.experts.{}.w3.weight";

constexpr std::array<TensorRule, 13> kTensors = {{
    {kEmbedding, "token_embd.weight", Role::kEmbedding, RowMap::kNone, true},
    {kInputNorm, "blk.{}.attn_norm.weight", Role::kNorm, RowMap::kNone, true},
    {kQ, "blk.{}.attn_q.weight", Role::kAttnQ, RowMap::kRopeQ, true},
    {kK, "blk.{}.attn_k.weight", Role::kAttnK, RowMap::kRopeK, true},
    {kV, "blk.{}.attn_v.weight", Role::kAttnV, RowMap::kNone, true},
    {kO, "blk.{}.attn_output.weight", Role::kAttnOutput, RowMap::kNone, true},
    {kPostNorm, "blk.{}.ffn_norm.weight", Role::kNorm, RowMap::kNone, true},
    {kRouter, "blk.{}.ffn_gate_inp.weight", Role::kRouter, RowMap::kNone, true},
    {kW1, "blk.{}.ffn_gate_exps.weight", Role::kFfnGate, RowMap::kNone, true},
    {kW3, "blk.{}.ffn_up_exps.weight", Role::kFfnUp, RowMap::kNone, true},
    {kW2, "blk.{}.ffn_down_exps.weight", Role::kFfnDown, RowMap::kNone, true},
    {kFinalNorm, "output_norm.weight", Role::kNorm, RowMap::kNone, true},
    {kHead, "output.weight", Role::kHead, RowMap::kNone, true},
}};

constexpr std::array<Step, 8> kExperts = {{
    {StepKind::kLinear, Slot::kNormed, Slot::kRouterLogits, Slot::kNone, kRouter},
    {StepKind::kRoute, Slot::kRouterLogits, Slot::kExpertIn, Slot::kNormed, {}},
    {StepKind::kExpertLinear, Slot::kExpertIn, Slot::kExpertGate, Slot::kNone, kW1},
    {StepKind::kExpertLinear, Slot::kExpertIn, Slot::kExpertUp, Slot::kNone, kW3},
    {StepKind::kSiluGate, Slot::kExpertGate, Slot::kExpertGated, Slot::kExpertUp, {}},
    {StepKind::kExpertLinear, Slot::kExpertGated, Slot::kExpertDelta, Slot::kNone, kW2},
    {StepKind::kExpertSum, Slot::kExpertDelta, Slot::kDelta, Slot::kNone, {}},
    {StepKind::kAdd, Slot::kDelta, Slot::kHidden, Slot::kNone, {}},
}};

constexpr std::array<Step, 18> kLayer = Join(kAttention, kExperts);

constexpr Family kMixtral = {
    .name = "mixtral",
    .hf_architecture = "MixtralForCausalLM",
    .hf_model_type = "mixtral",
    .gguf_architecture = "llama",
    .tensors = kTensors,
    .layer = kLayer,
    .embedding = kEmbedding,
    .final_norm = kFinalNorm,
    .head = kHead,
};

}  // namespace

const Family& MixtralFamily() { return kMixtral; }

}  // namespace pennyweight
