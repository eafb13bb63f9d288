// What has to be known of a model to run it, from config.json or from GGUF metadata.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "lib/dtype.h"

namespace pennyweight {

struct RopeScaling {
  enum class Kind : uint8_t { kNone, kLinear, kLlama3 };
  Kind kind = Kind::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;                // llama3
  double high_freq_factor = 4.0;               // llama3
  int64_t original_context_length = 8192;      // llama3
};

struct ModelConfig {
  std::string family;        // row of lib/arch: "llama"; empty when the family is not known
  std::string architecture;  // as the model says: "LlamaForCausalLM", or GGUF's "llama"
  std::string name;          // for people: folder name or general.name
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t experts = 0;       // of a layer, shared ones apart; 0: dense
  int64_t experts_per_token = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t context_length = 0;
  // Attention looks back over this many tokens, itself included; 0: over all. Only contexts up to
  // this length are computed here: for them the two are the same.
  int64_t sliding_window = 0;
  double rms_norm_eps = 0;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool tie_embeddings = false;  // no head tensor: the embedding serves as one
  DType dtype = DType::kF32;    // what the weights are in, by the model's own word
  std::optional<int64_t> bos_id, eos_id;

  // Tokens that may be in one context: the model's own limit, or its attention's; 0: not known.
  int64_t LongestContext() const {
    const bool windowed = sliding_window > 0 && sliding_window < context_length;
    return windowed ? sliding_window : context_length;
  }
};

}  // namespace pennyweight
