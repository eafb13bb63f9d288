// A small llama as Hugging Face has it, for the tests of the GGUF sink and model.
#pragma once

#include <fmt/format.h>

#include <string>
#include <vector>

#include "lib/model.h"
#include "lib/tensor_sink.h"

namespace pennyweight {

// 2 layers, 4 heads and 2 key heads of 64, rows of 256 so that every block type fits.
inline Model TinyLlama() {
  Model model;
  model.path = "no-such-folder";
  model.family = FindFamily("llama");
  ModelConfig config;
  config.family = "llama";
  config.architecture = "LlamaForCausalLM";
  config.name = "tiny";
  config.hidden_size = 256;
  config.intermediate_size = 256;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 64;
  config.vocab_size = 40;
  config.context_length = 128;
  config.rms_norm_eps = 1e-6;
  config.bos_id = 1;
  config.eos_id = 2;
  model.config = config;
  Vocabulary vocabulary;
  vocabulary.kind = Vocabulary::Kind::kSentencePieceBpe;
  vocabulary.tokens = {{"<unk>", 0, TokenType::kUnknown},
                       {"<s>", 0, TokenType::kControl},
                       {"</s>", 0, TokenType::kControl}};
  for (int i = 0; i < 30; ++i) {
    vocabulary.tokens.push_back({fmt::format("t{}", i), static_cast<float>(-i)});
  }
  vocabulary.bos_id = 1;
  vocabulary.eos_id = 2;
  vocabulary.unk_id = 0;
  vocabulary.chat_template = "{% for m in messages %}{{ m }}{% endfor %}";
  model.vocabulary = vocabulary;
  return model;
}

// Its tensors in no particular order, matrices in `encoding`, the rest in f32.
inline std::vector<OutputTensor> TinyTensors(const Encoding& encoding) {
  const Encoding f32 = Encoding::Plain(DType::kF32);
  std::vector<OutputTensor> out = {{"lm_head.weight", encoding, {40, 256}},
                                   {"model.norm.weight", f32, {256}}};
  for (const char* layer : {"model.layers.1.", "model.layers.0."}) {
    const std::string p = layer;
    out.push_back({p + "mlp.down_proj.weight", encoding, {256, 256}});
    out.push_back({p + "mlp.gate_proj.weight", encoding, {256, 256}});
    out.push_back({p + "mlp.up_proj.weight", encoding, {256, 256}});
    out.push_back({p + "self_attn.k_proj.weight", encoding, {128, 256}});
    out.push_back({p + "self_attn.q_proj.weight", encoding, {256, 256}});
    out.push_back({p + "self_attn.v_proj.weight", encoding, {128, 256}});
    out.push_back({p + "self_attn.o_proj.weight", encoding, {256, 256}});
    out.push_back({p + "self_attn.q_proj.bias", f32, {256}});
    out.push_back({p + "self_attn.k_proj.bias", f32, {128}});
    out.push_back({p + "input_layernorm.weight", f32, {256}});
    out.push_back({p + "post_attention_layernorm.weight", f32, {256}});
  }
  out.push_back({"model.embed_tokens.weight", encoding, {40, 256}});
  return out;
}

inline TensorInfo InfoOf(const OutputTensor& tensor) {
  TensorInfo info;
  info.shape = tensor.shape;
  return info;
}

}  // namespace pennyweight
