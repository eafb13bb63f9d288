// The forward pass of one decoder layer, interpreted from the family's steps, so that the input of
// every linear can be watched in one place.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string_view>
#include <vector>

#include "lib/arch/family.h"
#include "lib/context.h"
#include "lib/dtype.h"
#include "lib/model_config.h"
#include "lib/result.h"
#include "lib/tensor_source.h"

namespace pennyweight {

// A weight in memory, as Gemm takes it.
struct Weight {
  std::vector<uint8_t> data;  // [rows, cols] of dtype
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 0;
  std::vector<float> bias;  // [rows], or empty
};

// Weights of one layer by their step's pattern (Step::weight).
using LayerWeights = std::map<std::string_view, Weight>;

// Reads a family's tensor of a layer: F16 and BF16 stay as stored, everything else is decoded to
// F32. Errors: kTensorMissing, kInvalidTensor (not the shape the configuration gives).
Result<Weight> LoadWeight(const TensorSource& source, const Family& family,
                          const ModelConfig& config, std::string_view pattern, int64_t layer);
// Rows [row, row + count) of such a matrix, without bias: a large head is multiplied in tiles.
// Precondition: the range is inside the configuration's shape.
Result<Weight> LoadWeightRows(const TensorSource& source, const Family& family,
                              const ModelConfig& config, std::string_view pattern, int64_t layer,
                              int64_t row, int64_t count);
Result<LayerWeights> LoadLayer(const TensorSource& source, const Family& family,
                               const ModelConfig& config, int64_t layer);

// Whether LayerRunner can run a configuration: positive sizes, an even head_dim, heads a multiple
// of kv_heads. Errors: kConfigInvalid naming the numbers. To be asked before the other functions.
Status CheckRunnable(const ModelConfig& config);

// Runs a layer's steps [begin, end) on consecutive windows. One object serves one call at a time;
// buffers grow to the largest call and are reused.
class LayerRunner {
 public:
  LayerRunner(const Family& family, const ModelConfig& config);

  // hidden[tokens, hidden_size] in and out (kHidden); tokens = sum of `windows` (lengths; each is a
  // context of its own, positions from 0). Steps before `begin` must have been run on the same
  // windows by this object, unless begin is 0.
  void Run(const Context& context, const LayerWeights& weights, std::span<const int64_t> windows,
           size_t begin, size_t end, float* hidden);

  // The values of a slot after Run: [tokens, width]; valid until the next Run.
  const float* slot(Slot slot) const;
  int64_t width(Slot slot) const;

 private:
  void Step1(const Context& context, const LayerWeights& weights, std::span<const int64_t> windows,
             const Step& step, float* hidden, int64_t tokens);
  void RmsNorm(const Context& context, const Weight& weight, const float* in, int64_t tokens,
               float* out) const;
  void Linear(const Context& context, const Weight& weight, const float* in, int64_t in_width,
              int64_t tokens, float* out) const;
  void Rotate(const Context& context, std::span<const int64_t> windows, int64_t heads,
              float* rows) const;
  void Attend(const Context& context, std::span<const int64_t> windows, float* out) const;
  void PreparePositions(int64_t positions);
  float* Buffer(Slot slot, int64_t tokens);

  const Family& family_;
  const ModelConfig& config_;
  std::vector<float> rope_cos_, rope_sin_;  // [positions, head_dim / 2]
  std::vector<std::vector<float>> buffers_;
};

// Rows of the embedding matrix for ids: out[ids, hidden_size].
Status EmbedTokens(const TensorSource& source, const Family& family, const ModelConfig& config,
                   std::span<const int32_t> ids, float* out);

}  // namespace pennyweight
