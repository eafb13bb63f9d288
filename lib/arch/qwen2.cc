// Names: transformers' Qwen2ForCausalLM, and llama.cpp's gguf tensor map. llama.cpp rotates the
// halves of qwen2's heads as transformers does, so that rows stand where they are.
#include "lib/arch/qwen2.h"

#include <array>

#include "lib/arch/decoder.h"

namespace pennyweight {
namespace {

using namespace decoder;

constexpr std::array<TensorRule, 15> kTensors = {{
    {kEmbedding, "token_embd.weight", Role::kEmbedding, RowMap::kNone, true},
    {kInputNorm, "blk.{}.attn_norm.weight", Role::kNorm, RowMap::kNone, true},
    {kQ, "blk.{}.attn_q.weight", Role::kAttnQ, RowMap::kNone, true},
    {kK, "blk.{}.attn_k.weight", Role::kAttnK, RowMap::kNone, true},
    {kV, "blk.{}.attn_v.weight", Role::kAttnV, RowMap::kNone, true},
    {kO, "blk.{}.attn_output.weight", Role::kAttnOutput, RowMap::kNone, true},
    {kPostNorm, "blk.{}.ffn_norm.weight", Role::kNorm, RowMap::kNone, true},
    {kGate, "blk.{}.ffn_gate.weight", Role::kFfnGate, RowMap::kNone, true},
    {kUp, "blk.{}.ffn_up.weight", Role::kFfnUp, RowMap::kNone, true},
    {kDown, "blk.{}.ffn_down.weight", Role::kFfnDown, RowMap::kNone, true},
    {kFinalNorm, "output_norm.weight", Role::kNorm, RowMap::kNone, true},
    {kHead, "output.weight", Role::kHead, RowMap::kNone, true},
    {kQBias, "blk.{}.attn_q.bias", Role::kBias, RowMap::kNone, true},
    {kKBias, "blk.{}.attn_k.bias", Role::kBias, RowMap::kNone, true},
    {kVBias, "blk.{}.attn_v.bias", Role::kBias, RowMap::kNone, true},
}};

constexpr Family kQwen2 = {
    .name = "qwen2",
    .hf_architecture = "Qwen2ForCausalLM",
    .hf_model_type = "qwen2",
    .gguf_architecture = "qwen2",
    .tensors = kTensors,
    .layer = kDenseLayer,
    .embedding = kEmbedding,
    .final_norm = kFinalNorm,
    .head = kHead,
};

}  // namespace

const Family& Qwen2Family() { return kQwen2; }

}  // namespace pennyweight
