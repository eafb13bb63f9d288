// What the decoder-only families have in common: Hugging Face's tensor names, and the steps of a
// pre-norm layer with rotary positions and grouped heads.
#pragma once

#include <algorithm>
#include <array>

#include "lib/arch/family.h"

namespace pennyweight::decoder {

inline constexpr std::string_view kEmbedding = "model.embed_tokens.weight";
inline constexpr std::string_view kFinalNorm = "model.norm.weight";
inline constexpr std::string_view kHead = "lm_head.weight";
inline constexpr std::string_view kInputNorm = "model.layers.{}.input_layernorm.weight";
inline constexpr std::string_view kQ = "model.layers.{}.self_attn.q_proj.weight";
inline constexpr std::string_view kK = "model.layers.{}.self_attn.k_proj.weight";
inline constexpr std::string_view kV = "model.layers.{}.self_attn.v_proj.weight";
inline constexpr std::string_view kO = "model.layers.{}.self_attn.o_proj.weight";
inline constexpr std::string_view kPostNorm = "model.layers.{}.post_attention_layernorm.weight";
inline constexpr std::string_view kGate = "model.layers.{}.mlp.gate_proj.weight";
inline constexpr std::string_view kUp = "model.layers.{}.mlp.up_proj.weight";
inline constexpr std::string_view kDown = "model.layers.{}.mlp.down_proj.weight";
inline constexpr std::string_view kQBias = "model.layers.{}.self_attn.q_proj.bias";
inline constexpr std::string_view kKBias = "model.layers.{}.self_attn.k_proj.bias";
inline constexpr std::string_view kVBias = "model.layers.{}.self_attn.v_proj.bias";
inline constexpr std::string_view kOBias = "model.layers.{}.self_attn.o_proj.bias";

template <size_t A, size_t B>
constexpr std::array<Step, A + B> Join(const std::array<Step, A>& a, const std::array<Step, B>& b) {
  std::array<Step, A + B> out{};
  std::copy(a.begin(), a.end(), out.begin());
  std::copy(b.begin(), b.end(), out.begin() + A);
  return out;
}

// "LLaMA: Open and Efficient Foundation Language Models", section 2.2, with grouped heads as in
// Llama 2: from kHidden to kHidden and, of the second norm, kNormed.
inline constexpr std::array<Step, 10> kAttention = {{
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
}};

// SwiGLU, from kNormed.
inline constexpr std::array<Step, 5> kDenseFfn = {{
    {StepKind::kLinear, Slot::kNormed, Slot::kGate, Slot::kNone, kGate},
    {StepKind::kLinear, Slot::kNormed, Slot::kUp, Slot::kNone, kUp},
    {StepKind::kSiluGate, Slot::kGate, Slot::kGated, Slot::kUp, {}},
    {StepKind::kLinear, Slot::kGated, Slot::kDelta, Slot::kNone, kDown},
    {StepKind::kAdd, Slot::kDelta, Slot::kHidden, Slot::kNone, {}},
}};

inline constexpr std::array<Step, 15> kDenseLayer = Join(kAttention, kDenseFfn);

}  // namespace pennyweight::decoder
