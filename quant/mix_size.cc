#include "quant/mix_size.h"

#include <array>
#include <string>

namespace pennyweight {
namespace {

// config.json of meta-llama/Meta-Llama-3-8B.
constexpr int64_t kLayers = 32;
constexpr int64_t kHidden = 4096;
constexpr int64_t kFfn = 14336;
constexpr int64_t kKeys = 1024;
constexpr int64_t kVocabulary = 128256;

struct Part {
  const char* name;
  int64_t rows, cols;
};
constexpr std::array<Part, 7> kParts = {{{"self_attn.q_proj", kHidden, kHidden},
                                         {"self_attn.k_proj", kKeys, kHidden},
                                         {"self_attn.v_proj", kKeys, kHidden},
                                         {"self_attn.o_proj", kHidden, kHidden},
                                         {"mlp.gate_proj", kFfn, kHidden},
                                         {"mlp.up_proj", kFfn, kHidden},
                                         {"mlp.down_proj", kHidden, kFfn}}};

// Norms are 0.003 % of the weights and stay as they are under every mix: left out.
std::vector<TensorInfo> Llama8B() {
  std::vector<TensorInfo> tensors;
  const auto add = [&](std::string name, int64_t rows, int64_t cols) {
    TensorInfo info;
    info.name = std::move(name);
    info.shape = {rows, cols};
    info.encoding = Encoding::Plain(DType::kBF16);
    tensors.push_back(std::move(info));
  };
  add("model.embed_tokens.weight", kVocabulary, kHidden);
  add("lm_head.weight", kVocabulary, kHidden);
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    for (const Part& part : kParts) {
      add("model.layers." + std::to_string(layer) + "." + part.name + ".weight", part.rows,
          part.cols);
    }
  }
  return tensors;
}

}  // namespace

Result<double> BitsOnLlama8B(const Mix& mix) {
  MixOptions options;
  options.type = mix.name;
  options.integer.group_size = 128;
  options.plain = options.norm = Encoding::Plain(DType::kBF16);
  options.importance = true;
  ModelConfig config;
  config.layers = kLayers;
  config.heads = 32;
  config.kv_heads = 8;
  const std::vector<TensorInfo> tensors = Llama8B();
  PW_ASSIGN(const std::vector<Choice> choices,
            DecideTypes(options, FindFamily("llama"), config, tensors));
  double bits = 0, weights = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto elements = static_cast<double>(tensors[i].elements());
    bits += elements * choices[i].encoding.BitsPerWeight(tensors[i].cols());
    weights += elements;
  }
  return bits / weights;
}

}  // namespace pennyweight
