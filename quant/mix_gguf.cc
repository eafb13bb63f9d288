#include "quant/mix_gguf.h"

#include <algorithm>
#include <numeric>

namespace pennyweight {
namespace {

// llama.cpp's use_more_bits: the first and last eighth, and every third layer between.
bool MoreBits(int64_t i, int64_t n) { return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2; }

// Parts of names that llama.cpp never quantizes, of the architectures it knows.
constexpr std::string_view kNeverQuantized[] = {
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
};

// Type that stands in where rows do not divide into super-blocks of 256.
BlockType StandIn(BlockType type) {
  switch (type) {
    case BlockType::kQ2_K:
    case BlockType::kQ3_K:
      return BlockType::kQ4_0;
    case BlockType::kQ4_K:
      return BlockType::kQ5_0;
    case BlockType::kQ5_K:
      return BlockType::kQ5_1;
    case BlockType::kQ6_K:
      return BlockType::kQ8_0;
    default:
      return type;
  }
}

}  // namespace

bool IsGgufQuantized(std::string_view gguf_name, const Shape& shape) {
  const auto first = std::find_if(shape.begin(), shape.end(), [](int64_t d) { return d != 1; });
  if (shape.end() - first < 2) return false;
  if (!gguf_name.ends_with("weight")) return false;
  if (gguf_name == "position_embd.weight" || gguf_name == "token_types.weight") return false;
  return std::none_of(
      std::begin(kNeverQuantized), std::end(kNeverQuantized),
      [&](std::string_view part) { return gguf_name.find(part) != std::string_view::npos; });
}

std::vector<size_t> GgufOrder(std::span<const std::string> gguf_names,
                              std::span<const int64_t> layers) {
  std::vector<size_t> order(gguf_names.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (layers[a] != layers[b]) return layers[a] < layers[b];
    return gguf_names[a] < gguf_names[b];
  });
  return order;
}

bool Is70B(const ModelConfig& config, const Family* family) {
  if (config.layers != 80 || family == nullptr) return false;
  if (family->gguf_architecture == "llama") return config.heads != config.kv_heads;
  return family->gguf_architecture == "qwen2" || family->gguf_architecture == "deci" ||
         family->gguf_architecture == "olmo";
}

BlockType GgufMix::Choose(Role role, int64_t cols) {
  switch (role) {
    case Role::kHead:
      return Head(cols);
    case Role::kEmbedding:
      return facts_.tied ? Head(cols) : facts_.base;
    case Role::kAttnV:
    case Role::kAttnQkv:
      return Value();
    case Role::kFfnDown:
      return Down();
    case Role::kAttnOutput:
      return AttnOutput();
    default:
      return facts_.base;
  }
}

BlockType GgufMix::Head(int64_t cols) const {
  if (facts_.base == BlockType::kQ8_0 || cols % TraitsOf(facts_.base).elements != 0) {
    return BlockType::kQ8_0;
  }
  return BlockType::kQ6_K;
}

BlockType GgufMix::Value() {
  const int64_t i = value_++;
  BlockType type = facts_.base;
  switch (facts_.file_type) {
    case GgufFileType::kQ2_K:
      type = facts_.heads_per_kv >= 4 ? BlockType::kQ4_K : BlockType::kQ3_K;
      break;
    case GgufFileType::kQ3_K_M:
      type = i < 2 ? BlockType::kQ5_K : BlockType::kQ4_K;
      break;
    case GgufFileType::kQ3_K_L:
      type = BlockType::kQ5_K;
      break;
    case GgufFileType::kQ4_K_S:
      if (i < 4) type = BlockType::kQ5_K;
      break;
    case GgufFileType::kQ4_K_M:
    case GgufFileType::kQ5_K_M:
      if (MoreBits(i, facts_.value_tensors)) type = BlockType::kQ6_K;
      break;
    default:
      break;
  }
  if (facts_.is_70b && (type == BlockType::kQ3_K || type == BlockType::kQ4_K)) {
    type = BlockType::kQ5_K;
  }
  return type;
}

BlockType GgufMix::Down() {
  const int64_t i = down_++;
  const int64_t n = facts_.layers;
  switch (facts_.file_type) {
    case GgufFileType::kQ2_K:
      return BlockType::kQ3_K;
    case GgufFileType::kQ3_K_M:
      return i < n / 16 ? BlockType::kQ5_K : BlockType::kQ4_K;
    case GgufFileType::kQ3_K_L:
      return BlockType::kQ5_K;
    case GgufFileType::kQ4_K_S:
      return i < n / 8 ? BlockType::kQ5_K : facts_.base;
    case GgufFileType::kQ4_K_M:
    case GgufFileType::kQ5_K_M:
      return MoreBits(i, n) ? BlockType::kQ6_K : facts_.base;
    default:
      return facts_.base;
  }
}

BlockType GgufMix::AttnOutput() const {
  switch (facts_.file_type) {
    case GgufFileType::kQ2_K:
      return BlockType::kQ3_K;
    case GgufFileType::kQ3_K_M:
      return BlockType::kQ4_K;
    case GgufFileType::kQ3_K_L:
      return BlockType::kQ5_K;
    default:
      return facts_.base;
  }
}

Encoding FitBlocks(BlockType wanted, int64_t cols) {
  if (cols % TraitsOf(wanted).elements == 0) return Encoding::Block(wanted);
  const BlockType stand_in = StandIn(wanted);
  if (cols % TraitsOf(stand_in).elements == 0) return Encoding::Block(stand_in);
  return Encoding::Plain(DType::kF16);
}

}  // namespace pennyweight
