// llama.cpp's choice of block types: which tensors are quantized, the order in which they are
// visited, the type of each, and what stands in where a row does not divide into blocks.
// Source: llama.cpp, src/llama-quant.cpp (August 2026). The rules are the table in
// quant/mix_rules.cc; testdata/golden/mixes.txt holds what llama-quantize itself decided.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/arch/family.h"
#include "lib/encoding.h"
#include "lib/model_config.h"
#include "lib/tensor.h"

namespace pennyweight {

// Numbers of general.file_type, as GGUF files store them.
enum class GgufFileType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ8_0 = 7,
  kQ5_0 = 8,
  kQ5_1 = 9,
  kQ2_K = 10,
  kQ3_K_S = 11,
  kQ3_K_M = 12,
  kQ3_K_L = 13,
  kQ4_K_S = 14,
  kQ4_K_M = 15,
  kQ5_K_S = 16,
  kQ5_K_M = 17,
  kQ6_K = 18,
  kIQ2_XXS = 19,
  kIQ2_XS = 20,
  kQ2_K_S = 21,
  kIQ3_XS = 22,
  kIQ3_XXS = 23,
  kIQ1_S = 24,
  kIQ4_NL = 25,
  kIQ3_S = 26,
  kIQ3_M = 27,
  kIQ2_S = 28,
  kIQ2_M = 29,
  kIQ4_XS = 30,
  kIQ1_M = 31,
  kBF16 = 32,
  kTQ1_0 = 36,
  kTQ2_0 = 37,
  kMXFP4_MoE = 38,
  kQ1_0 = 40,
  kQ2_0 = 41,
};

// What llama.cpp reads out of a tensor's name, in the order in which it asks.
enum class GgufPart : uint8_t {
  kOutput,
  kEmbedding,
  kQkv,
  kKvB,
  kValue,
  kKey,
  kQuery,
  kAttnOutput,
  kUp,
  kGate,
  kDown,
  kOther,
};
GgufPart PartOf(std::string_view gguf_name);
// attn_v and the fused matrices that hold it.
bool IsValueLike(GgufPart part);
// The layer of "blk.12.attn_q.weight"; -1 where the name has none.
int64_t LayerOf(std::string_view gguf_name);

// The GGUF name of a tensor that no known family names, from the words that most Hugging Face
// models use ("model.layers.3.mlp.experts.7.down_proj.weight" is "blk.3.ffn_down_exps.weight");
// the name itself where nothing is recognised, and where it is a GGUF name already.
std::string GuessGgufName(std::string_view name, Role role);

// True for tensors whose values llama.cpp quantizes, by GGUF name and shape ([rows..., cols]; a
// leading 1 does not count as a dimension).
bool IsGgufQuantized(std::string_view gguf_name, const Shape& shape);

// Indexes of the tensors in the order that llama.cpp decides in: by layer (-1 first), then bytewise
// by name. Both spans are of one length.
std::vector<size_t> GgufOrder(std::span<const std::string> gguf_names,
                              std::span<const int64_t> layers);

// What the choices depend on besides the tensor itself.
struct GgufMixFacts {
  GgufFileType file_type = GgufFileType::kQ4_K_M;
  BlockType base = BlockType::kQ4_K;
  int64_t layers = 0;
  int64_t value_tensors = 0;      // IsValueLike ones in the model
  int64_t heads_per_kv = 1;       // query heads that share a key and value head
  int64_t experts = 0;            // of a layer; 0: dense
  bool tied = false;              // no head tensor: the embedding serves as one
  bool is_70b = false;            // Is70B
  bool falcon = false;            // its own rules for head and ffn_down
  bool only_ffn_experts = false;  // a 3-D tensor that is not of the ffn is no expert (bailingmoe3)
  bool importance = false;        // an importance matrix, or calibration, weights the rounding
};

// general.architecture of the model as GGUF files name it; empty when it is not known.
std::string GgufArchitecture(const ModelConfig& config, const Family* family);

// 80 layers with grouped heads: llama.cpp gives attn_v of these more bits, since it is small.
bool Is70B(const ModelConfig& config, const Family* family);

// The type of one tensor after the other, in GgufOrder; counters advance with each call. Tensors
// that are not left to the mix must not be asked for: as in llama.cpp, those with a type of the
// user's do not advance the counters.
class GgufMix {
 public:
  explicit GgufMix(const GgufMixFacts& facts) : facts_(facts) {}
  // `expert`: the tensor holds several experts (3-D), or is one of those that will be held
  // together.
  BlockType Choose(const std::string& gguf_name, int64_t cols, bool expert);

 private:
  BlockType Decide(GgufPart part, int64_t layer, int64_t cols, bool expert);

  GgufMixFacts facts_;
  // Tensors of each kind decided so far.
  int64_t value_ = 0;
  int64_t down_ = 0;
  int64_t gate_ = 0;
  int64_t up_ = 0;
  // Experts that stand apart in the input share one name, and so one decision.
  std::string last_name_;
  BlockType last_ = BlockType::kQ4_0;
};

// Every type that some rule of the mix can choose, and its base; without what stands in for shapes.
std::vector<BlockType> TypesOfMix(GgufFileType file_type, BlockType base);

// `wanted` where rows of `cols` divide into its blocks; else llama.cpp's stand-in of 32 columns a
// block; else F16. (llama.cpp itself refuses such rows for types that have no stand-in.)
Encoding FitBlocks(BlockType wanted, int64_t cols);

// True where llama.cpp refuses to make `type` without an importance matrix, head and embedding
// excepted. Their encoders place so few codes that unweighted rounding leaves nothing of a model.
bool NeedsImportance(BlockType type, GgufFileType file_type);

}  // namespace pennyweight
