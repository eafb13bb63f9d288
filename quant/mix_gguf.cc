#include "quant/mix_gguf.h"

#include <algorithm>
#include <array>

#include "quant/mix_rules.h"

namespace pennyweight {
namespace {

// llama.cpp's use_more_bits: the first and last eighth, and every third layer between.
bool MoreBits(int64_t i, int64_t n) { return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2; }

// Type that stands in where rows do not divide into the blocks of `type`.
BlockType StandIn(BlockType type) {
  switch (type) {
    case BlockType::kIQ1_S:
    case BlockType::kIQ1_M:
    case BlockType::kIQ2_XXS:
    case BlockType::kIQ2_XS:
    case BlockType::kIQ2_S:
    case BlockType::kIQ3_XXS:
    case BlockType::kIQ3_S:
    case BlockType::kIQ4_XS:
      return BlockType::kIQ4_NL;
    case BlockType::kQ2_0:
    case BlockType::kQ2_K:
    case BlockType::kQ3_K:
    case BlockType::kTQ1_0:
    case BlockType::kTQ2_0:
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

// The conditions that hold for tensor i of n, in rows of `cols`.
uint32_t Holding(const GgufMixFacts& facts, int64_t i, int64_t n, int64_t cols) {
  uint32_t bits = 0;
  const auto set = [&](bool holds, MixCondition bit) { bits |= holds ? bit : 0u; };
  set(facts.heads_per_kv >= 4, kGroups4);
  set(facts.experts >= 4, kExperts4);
  set(facts.experts == 8, kEightExperts);
  set(facts.experts != 8, kNotEight);
  set(facts.importance, kImportance);
  set(!facts.importance, kNoImportance);
  set(i < n / 8, kFirstEighth);
  set(i < n / 16, kFirstSixteenth);
  set(i >= n / 8 && i < 7 * n / 8, kMiddle);
  set(MoreBits(i, n), kMore);
  set(i < 2, kFirst2);
  set(i < 4, kFirst4);
  set(facts.falcon, kFalcon);
  set(!facts.falcon, kNotFalcon);
  set(cols % TraitsOf(facts.base).elements != 0, kRagged);
  return bits;
}

// Mixes whose counters count tensors even where there are experts.
constexpr FileSet kCountTensors =
    In(GgufFileType::kIQ1_S, GgufFileType::kIQ1_M, GgufFileType::kIQ2_XXS, GgufFileType::kIQ2_XS,
       GgufFileType::kIQ2_S, GgufFileType::kIQ2_M);

struct Architecture {
  std::string_view hf;
  std::string_view gguf;
};

// Those that a rule asks for.
constexpr Architecture kArchitectures[] = {
    {"FalconForCausalLM", "falcon"}, {"RWForCausalLM", "falcon"},     {"LlamaForCausalLM", "llama"},
    {"MistralForCausalLM", "llama"}, {"MixtralForCausalLM", "llama"}, {"Qwen2ForCausalLM", "qwen2"},
    {"DeciLMForCausalLM", "deci"},   {"OlmoForCausalLM", "olmo"},     {"Jais2ForCausalLM", "jais2"},
};

}  // namespace

std::string GgufArchitecture(const ModelConfig& config, const Family* family) {
  if (family != nullptr) return std::string(family->gguf_architecture);
  for (const Architecture& row : kArchitectures) {
    if (config.architecture == row.hf) return std::string(row.gguf);
  }
  return config.architecture;  // as a GGUF file says it
}

bool Is70B(const ModelConfig& config, const Family* family) {
  const std::string architecture = GgufArchitecture(config, family);
  if (architecture == "jais2") return config.layers == 68;
  if (config.layers != 80) return false;
  if (architecture == "llama") return config.experts != 8 && config.heads != config.kv_heads;
  return architecture == "qwen2" || architecture == "deci" || architecture == "olmo";
}

BlockType GgufMix::Choose(const std::string& gguf_name, int64_t cols, bool expert) {
  if (gguf_name == last_name_) return last_;
  last_name_ = gguf_name;
  last_ = Decide(PartOf(gguf_name), LayerOf(gguf_name), cols, expert);
  return last_;
}

BlockType GgufMix::Decide(GgufPart part, int64_t layer, int64_t cols, bool expert) {
  const FileSet file = In(facts_.file_type);
  if (part == GgufPart::kEmbedding && facts_.tied) part = GgufPart::kOutput;
  if (facts_.file_type == GgufFileType::kMXFP4_MoE && part != GgufPart::kOutput) {
    const bool ffn = part == GgufPart::kUp || part == GgufPart::kGate || part == GgufPart::kDown;
    return expert && (ffn || !facts_.only_ffn_experts) ? BlockType::kMXFP4 : BlockType::kQ8_0;
  }
  int64_t i = 0;
  int64_t n = facts_.layers;
  if (IsValueLike(part)) {
    part = GgufPart::kValue;
    i = value_++;
    n = facts_.value_tensors;
  } else if (part == GgufPart::kDown || part == GgufPart::kGate || part == GgufPart::kUp) {
    i = (part == GgufPart::kDown ? down_ : part == GgufPart::kGate ? gate_ : up_)++;
    // Shared and routed experts are several tensors of one layer.
    if (facts_.experts > 1 && layer >= 0 && (file & kCountTensors) == 0) i = layer;
  }
  const uint32_t holding = Holding(facts_, i, n, cols);
  BlockType type = facts_.base;
  for (const MixRule& rule : MixRules()) {
    if (rule.part != part || (rule.files & file) == 0 || (rule.when & ~holding) != 0) continue;
    type = rule.type;
    break;
  }
  const bool raised = part == GgufPart::kValue && facts_.is_70b && (file & kCountTensors) == 0;
  if (raised && (type == BlockType::kQ3_K || type == BlockType::kQ4_K)) return BlockType::kQ5_K;
  return type;
}

std::vector<BlockType> TypesOfMix(GgufFileType file_type, BlockType base) {
  std::vector<BlockType> types = {base};
  if (file_type == GgufFileType::kMXFP4_MoE) types.push_back(BlockType::kQ8_0);
  for (const MixRule& rule : MixRules()) {
    if ((rule.files & In(file_type)) != 0) types.push_back(rule.type);
  }
  std::sort(types.begin(), types.end());
  types.erase(std::unique(types.begin(), types.end()), types.end());
  return types;
}

Encoding FitBlocks(BlockType wanted, int64_t cols) {
  if (cols % TraitsOf(wanted).elements == 0) return Encoding::Block(wanted);
  const BlockType stand_in = StandIn(wanted);
  if (cols % TraitsOf(stand_in).elements == 0) return Encoding::Block(stand_in);
  return Encoding::Plain(DType::kF16);
}

bool NeedsImportance(BlockType type, GgufFileType file_type) {
  switch (type) {
    case BlockType::kIQ3_XXS:
    case BlockType::kIQ2_XXS:
    case BlockType::kIQ2_XS:
    case BlockType::kIQ2_S:
    case BlockType::kIQ1_M:
    case BlockType::kIQ1_S:
      return true;
    case BlockType::kQ2_K:
      return file_type == GgufFileType::kQ2_K_S;
    default:
      return false;
  }
}

}  // namespace pennyweight
