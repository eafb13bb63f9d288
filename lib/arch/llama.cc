// Names: transformers' LlamaForCausalLM, and llama.cpp's gguf tensor map. Steps:
// lib/arch/decoder.h.
#include "lib/arch/llama.h"

#include <array>

#include "lib/arch/decoder.h"

namespace pennyweight {
namespace {

using namespace decoder;

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
    {kQBias, "blk.{}.attn_q.bias", Role::kBias, RowMap::kRopeQ, false},
    {kKBias, "blk.{}.attn_k.bias", Role::kBias, RowMap::kRopeK, false},
    {kVBias, "blk.{}.attn_v.bias", Role::kBias, RowMap::kNone, false},
    {kOBias, "blk.{}.attn_output.bias", Role::kBias, RowMap::kNone, false},
    {"model.layers.{}.mlp.gate_proj.bias", "blk.{}.ffn_gate.bias", Role::kBias, RowMap::kNone,
     false},
    {"model.layers.{}.mlp.up_proj.bias", "blk.{}.ffn_up.bias", Role::kBias, RowMap::kNone, false},
    {"model.layers.{}.mlp.down_proj.bias", "blk.{}.ffn_down.bias", Role::kBias, RowMap::kNone,
     false},
}};

constexpr Family kLlama = {
    .name = "llama",
    .hf_architecture = "LlamaForCausalLM",
    .hf_model_type = "llama",
    .gguf_architecture = "llama",
    .tensors = kTensors,
    .layer = kDenseLayer,
    .embedding = kEmbedding,
    .final_norm = kFinalNorm,
    .head = kHead,
};

// The same tensors and steps under another name; attention may look back over a window only
// (ModelConfig::sliding_window), which is no difference for contexts that fit into it. GGUF files
// call it llama.
constexpr Family kMistral = {
    .name = "mistral",
    .hf_architecture = "MistralForCausalLM",
    .hf_model_type = "mistral",
    .gguf_architecture = "llama",
    .tensors = kTensors,
    .layer = kDenseLayer,
    .embedding = kEmbedding,
    .final_norm = kFinalNorm,
    .head = kHead,
};

}  // namespace

const Family& LlamaFamily() { return kLlama; }
const Family& MistralFamily() { return kMistral; }

}  // namespace pennyweight
