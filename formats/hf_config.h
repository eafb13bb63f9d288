// config.json of a Hugging Face model -> ModelConfig.
#pragma once

#include <optional>
#include <string>

#include "lib/arch/family.h"
#include "lib/error.h"
#include "lib/json.h"
#include "lib/model_config.h"
#include "lib/result.h"

namespace pennyweight {

// What a config.json says. `family` is set only when the model can be run: there is no error.
struct HfConfig {
  std::optional<ModelConfig> config;  // what is known; absent when a key is missing or wrong
  std::optional<Error> error;  // kUnknownFamily, kConfigMissing, kConfigInvalid, kUnsupported
  const Family* family = nullptr;
  bool has_dtype = false;  // the file says what the weights are in
};

// Reads the keys of a parsed config.json. `file` and `name` (for people) go into errors and the
// config. Keys are those of transformers' configurations, with their defaults where they have any:
// head_dim (= hidden_size / num_attention_heads), tie_word_embeddings (false), and by family
// num_key_value_heads, max_position_embeddings, rope_theta, sliding_window (formats/hf_config.cc).
HfConfig ParseHfConfig(const Json& json, const std::string& file, const std::string& name);

// "bfloat16", "torch.float16", ...; nullopt for what is not F32, F16 or BF16.
std::optional<DType> DTypeFromTorch(std::string_view name);

}  // namespace pennyweight
