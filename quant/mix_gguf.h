// llama.cpp's choice of block types: which tensors are quantized, the order in which they are
// visited, the type of each, and what stands in where a row does not divide into blocks.
// Source: llama.cpp, src/llama-quant.cpp (August 2026), for dense models and without an importance
// matrix; there is no rule here for experts, which llama.cpp treats apart.
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
#include "quant/mix.h"

namespace pennyweight {

// Numbers of general.file_type, as GGUF files store them.
enum class GgufFileType : uint32_t {
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
};

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
  int64_t value_tensors = 0;  // attn_v and fused attn_qkv in the model
  int64_t heads_per_kv = 1;   // query heads that share a key and value head
  bool tied = false;          // no head tensor: the embedding serves as one
  bool is_70b = false;        // Is70B
};

// 80 layers with grouped heads: llama.cpp gives attn_v of these more bits, since it is small.
bool Is70B(const ModelConfig& config, const Family* family);

// The type of one tensor after the other, in GgufOrder; counters advance with each call. Tensors
// that are not left to the mix must not be asked for.
class GgufMix {
 public:
  explicit GgufMix(const GgufMixFacts& facts) : facts_(facts) {}
  BlockType Choose(Role role, int64_t cols);

 private:
  BlockType Head(int64_t cols) const;
  BlockType Value();
  BlockType Down();
  BlockType AttnOutput() const;

  GgufMixFacts facts_;
  int64_t value_ = 0;
  int64_t down_ = 0;
};

// `wanted` where rows of `cols` divide into its blocks; else llama.cpp's stand-in of 32 columns a
// block; else F16. (llama.cpp itself refuses such rows for types that have no stand-in.)
Encoding FitBlocks(BlockType wanted, int64_t cols);

}  // namespace pennyweight
