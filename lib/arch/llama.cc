// Names: transformers' LlamaForCausalLM, and llama.cpp's gguf tensor map. Steps: the decoder layer
// of "LLaMA: Open and Efficient Foundation Language Models", section 2.2 (pre-norm RMSNorm, rotary
// positions on q and k, SwiGLU), with grouped heads as in Llama 2.
#include "lib/arch/llama.h"

#include <array>

namespace pennyweight {
namespace {

constexpr std::string_view kInputNorm = "model.layers.{}.input_layernorm.weight";
constexpr std::string_view kQ = "model.layers.{}.self_attn.q_proj.weight";
constexpr std::string_view kK = "model.layers.{}.self_attn.k_proj.weight";
constexpr std::string_view kV = "model.layers.{}.self_attn.v_proj.weight";
constexpr std::string_view kO = "model.layers.{}.self_attn.o_proj.weight";
constexpr std::string_view kPostNorm = "model.layers.{}.post_attention_layernorm.weight";
constexpr std::string_view kGate = "model.layers.{}.mlp.gate_proj.weight";
constexpr std::string_view kUp = "model.layers.{}.mlp.up_proj.weight";
constexpr std::string_view kDown = "model.layers.{}.mlp.down_proj.weight";
constexpr std::string_view kEmbedding = "model.embed_tokens.weight";
constexpr std::string_view kFinalNorm = "model.norm.weight";
constexpr std::string_view kHead = "lm_head.weight";

constexpr std::array<TensorRule, 19> kTensors = {{
    {kEmbedding, "token_embd.weight", Role::kEmbedding, RowMap::kNone, true},
    {kInputNorm, "blk.{}.attn_norm.weight", Role::kNorm, RowMap::kNone, true},
    {kQ, "blk.{}.attn_q.weight", Role::kAttnQ, RowMap::kRopeQ, true},
    {kK, "blk.{}.attn_k.weight", Role::kAttnK, RowMap::kRopeK, true},
    {kV, "blk.{}.attn_v.weight", Role::kAttnV, RowMap::kNone, true},
    {kO, "blk.{}.attn_output.weight", Role::kAttnOutput, RowMap::kNone, true},
    {kPostNorm, "blk.{}.ffn_norm.weight", Role::kNorm, RowMap::kNone, true},
    {kGate, "blk.{}.ffn_gate.weight", Role::kFfnGate, RowMap::kNone, true},
    {kUp, "blk.{}.ffn_up.weight", Role::kFfnUp, RowMap::kNone, true},
    {kDown, "blk.{}.ffn_down.weight", Role::kFfnDown, RowMap::kNone, true},
    {kFinalNorm, "output_norm.weight", Role::kNorm, RowMap::kNone, true},
    {kHead, "output.weight", Role::kHead, RowMap::kNone, true},
    // attention_bias and mlp_bias of config.json. Biases follow the rows of their matrix.
    {"model.layers.{}.self_attn.q_proj.bias", "blk.{}.attn_q.bias", Role::kBias, RowMap::kRopeQ,
     false},
    {"model.layers.{}.self_attn.k_proj.bias", "blk.{}.attn_k.bias", Role::kBias, RowMap::kRopeK,
     false},
    {"model.layers.{}.self_attn.v_proj.bias", "blk.{}.attn_v.bias", Role::kBias, RowMap::kNone,
     false},
    {"model.layers.{}.self_attn.o_proj.bias", "blk.{}.attn_output.bias", Role::kBias, RowMap::kNone,
     false},
    {"model.layers.{}.mlp.gate_proj.bias", "blk.{}.ffn_gate.bias", Role::kBias, RowMap::kNone,
     false},
    {"model.layers.{}.mlp.up_proj.bias", "blk.{}.ffn_up.bias", Role::kBias, RowMap::kNone, false},
    {"model.layers.{}.mlp.down_proj.bias", "blk.{}.ffn_down.bias", Role::kBias, RowMap::kNone,
     false},
}};

constexpr std::array<Step, 15> kLayer = {{
    {StepKind::kRmsNorm, Slot::kHidden, Slot::kNormed, Slot::kNone, kInputNorm},
    {StepKind::kLinear, Slot::kNormed, Slot::kQ, Slot::kNone, kQ},
    {StepKind::kLinear, Slot::kNormed, Slot::kK, Slot::kNone, kK},
    {StepKind::kLinear, Slot::kNormed, Slot::kV, Slot::kNone, kV},
    {StepKind::kRope, Slot::kQ, Slot::kQ, Slot::kNone, {}},
    {StepKind::kRope, Slot::kK, Slot::kK, Slot::kNone, {}},
    {StepKind::kAttention, Slot::kQ, Slot::kAttn, Slot::kNone, {}},
    {StepKind::kLinear, Slot::kAttn, Slot::kDelta, Slot::kNone, kO},
    {StepKind::kAdd, Slot::kDelta, Slot::kHidden, Slot::kNone, {}},
    {StepKind::kRmsNorm, Slot::kHidden, Slot::kNormed, Slot::kNone, kPostNorm},
    {StepKind::kLinear, Slot::kNormed, Slot::kGate, Slot::kNone, kGate},
    {StepKind::kLinear, Slot::kNormed, Slot::kUp, Slot::kNone, kUp},
    {StepKind::kSiluGate, Slot::kGate, Slot::kGated, Slot::kUp, {}},
    {StepKind::kLinear, Slot::kGated, Slot::kDelta, Slot::kNone, kDown},
    {StepKind::kAdd, Slot::kDelta, Slot::kHidden, Slot::kNone, {}},
}};

constexpr Family kLlama = {
    .name = "llama",
    .hf_architecture = "LlamaForCausalLM",
    .hf_model_type = "llama",
    .gguf_architecture = "llama",
    .tensors = kTensors,
    .layer = kLayer,
    .embedding = kEmbedding,
    .final_norm = kFinalNorm,
    .head = kHead,
};

}  // namespace

const Family& LlamaFamily() { return kLlama; }

}  // namespace pennyweight
