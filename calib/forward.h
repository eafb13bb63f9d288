// The forward pass of one decoder layer, interpreted from the family's steps, so that the input of
// every linear can be watched in one place.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <span>
#include <string_view>
#include <vector>

#include "lib/arch/family.h"
#include "lib/context.h"
#include "lib/dtype.h"
#include "lib/linalg.h"
#include "lib/model_config.h"
#include "lib/result.h"
#include "lib/tensor.h"
#include "lib/tensor_source.h"

namespace pennyweight {

// A weight in memory, as Gemm takes it.
struct Weight {
  std::vector<uint8_t> data;  // [rows, cols] of dtype
  DType dtype = DType::kF32;
  int64_t rows = 0, cols = 0;
  std::vector<float> bias;  // [rows], or empty
  // Instead of `data`: the same in encoded tiles of rows, decoded each time it is multiplied by.
  std::vector<EncodedTensor> tiles;
};

// A weight of a layer: its step's pattern (Step::weight) and, of experts' matrices, the expert.
struct WeightKey {
  std::string_view pattern;
  int64_t expert = -1;
  auto operator<=>(const WeightKey&) const = default;
};
using LayerWeights = std::map<WeightKey, Weight>;

// Reads a family's tensor of a layer: F16 and BF16 stay as stored, everything else is decoded to
// F32. Errors: kTensorMissing, kInvalidTensor (not the shape the configuration gives).
Result<Weight> LoadWeight(const TensorSource& source, const Family& family,
                          const ModelConfig& config, std::string_view pattern, int64_t layer,
                          int64_t expert = -1);
// The same without its values: shape and bias.
Result<Weight> LoadBiasAndShape(const TensorSource& source, const Family& family,
                                const ModelConfig& config, std::string_view pattern, int64_t layer,
                                int64_t expert = -1);
// Rows [row, row + count) of such a matrix, without bias: a large head is multiplied in tiles.
// Precondition: the range is inside the configuration's shape.
Result<Weight> LoadWeightRows(const TensorSource& source, const Family& family,
                              const ModelConfig& config, std::string_view pattern, int64_t layer,
                              int64_t row, int64_t count);
// All of a layer, all experts included.
Result<LayerWeights> LoadLayer(const TensorSource& source, const Family& family,
                               const ModelConfig& config, int64_t layer);

// Which rows of the kExpert* slots belong to which expert and token.
struct Routing {
  std::vector<int64_t> begin;  // [experts + 1]: expert e has rows [begin[e], begin[e + 1])
  std::vector<int64_t> token;  // [rows]: the row of kNormed that it was taken from
  std::vector<float> weight;   // [rows]: its share of the token's output
};

// Whether LayerRunner can run a configuration: positive sizes, an even head_dim, heads a multiple
// of kv_heads, where there are experts no more chosen of them than there are. Errors:
// kConfigInvalid naming the numbers. To be asked before the other functions.
Status CheckRunnable(const ModelConfig& config);

// Queries whose scores a thread holds at a time: [kQueryBlock, keys].
inline constexpr int64_t kQueryBlock = 64;

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

  // The values of a slot after Run: [rows, width]; valid until the next Run.
  const float* slot(Slot slot) const;
  int64_t width(Slot slot) const;
  // Tokens of the last Run, or routed rows for the kExpert* slots.
  int64_t rows(Slot slot) const;

  // How the last Run that passed kRoute routed; its tokens count from the first of that Run.
  const Routing& routing() const { return routing_; }
  // From now on the rows of `routing` (of as many experts, tokens inside the Run) stand for those
  // of the router's choice; weights are the model's own where a row is its own choice, else 0. So
  // kExpertSum leaves out what is chosen and not a row. nullptr: the router chooses again.
  void ForceRouting(const Routing* routing) { forced_ = routing; }
  // Every token is a row of every expert, of weight 0 where it was not chosen: the layer's output
  // stays the same. ForceRouting goes before it.
  void RouteAll(bool all) { route_all_ = all; }
  // Of the linears' products; kFull unless set.
  void SetPrecision(Precision precision) { precision_ = precision; }

 private:
  void Step1(const Context& context, const LayerWeights& weights, std::span<const int64_t> windows,
             const Step& step, float* hidden);
  void RmsNorm(const Context& context, const Weight& weight, const float* in, int64_t tokens,
               float* out) const;
  void Linear(const Context& context, const Weight& weight, const float* in, int64_t in_width,
              int64_t tokens, float* out) const;
  void Rotate(const Context& context, std::span<const int64_t> windows, int64_t heads,
              float* rows) const;
  void Attend(const Context& context, std::span<const int64_t> windows, float* out) const;
  void AttendBlock(const Context& context, int64_t head, int64_t start, int64_t first,
                   int64_t queries, float* out) const;
  // calib/experts.cc: routing, gathering and summing.
  void Route(const float* logits);
  void ChooseExperts(const float* logits);
  float OwnWeight(int64_t token, int64_t expert) const;
  void GatherRows(const Context& context, const float* in, float* out) const;
  void ExpertLinear(const Context& context, const LayerWeights& weights, const Step& step,
                    const float* in, float* out) const;
  void SumExperts(const Context& context, const float* in, float* out) const;
  void PreparePositions(int64_t positions);
  float* Buffer(Slot slot);

  const Family& family_;
  const ModelConfig& config_;
  std::vector<float> rope_cos_, rope_sin_;  // [positions, head_dim / 2]
  std::vector<std::vector<float>> buffers_;
  int64_t tokens_ = 0;  // of the current Run
  Routing routing_;
  const Routing* forced_ = nullptr;
  bool route_all_ = false;
  Precision precision_ = Precision::kFull;
  std::vector<int64_t> chosen_;       // [tokens, experts_per_token]: the router's choice
  std::vector<float> chosen_weight_;  // the same
};

// Rows of the embedding matrix for ids: out[ids, hidden_size].
Status EmbedTokens(const TensorSource& source, const Family& family, const ModelConfig& config,
                   std::span<const int32_t> ids, float* out);

}  // namespace pennyweight
