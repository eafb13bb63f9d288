// AWQ's rewrite (Lin et al., arXiv 2306.00978): channels that matter are made larger before
// rounding, and what produces them smaller, so that the function stays the same and its rounding
// error falls. Which scales, is searched on calibration tokens; whether they stay, is decided on
// tokens that nothing was fitted to.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "calib/forward.h"
#include "lib/arch/fold_points.h"
#include "lib/context.h"
#include "lib/fold_record.h"
#include "lib/folded_source.h"
#include "lib/result.h"

namespace pennyweight {

// Rounds w[rows, cols] of a tensor as the plain method would, and decodes it again: decoded[rows,
// cols]. `importance` per column. A tensor that will not be quantized is rounded to the dtype that
// it will be stored in. Rows and columns may be a part of the tensor's: runs of 256 columns. Called
// from one thread at a time.
using RoundMatrix =
    std::function<Status(std::string_view pattern, int64_t expert, const float* w, int64_t rows,
                         int64_t cols, std::span<const float> importance, float* decoded)>;

struct AwqInput {
  const Family* family = nullptr;
  const ModelConfig* config = nullptr;
  int64_t layer = 0;                      // for messages
  const LayerWeights* weights = nullptr;  // the layer's, in the original's numbers
  // Hidden states in front of the layer, [tokens, hidden_size], of whole windows (their lengths).
  // About 2048 tokens of each are enough; scales are made from the first, kept by the second.
  std::span<const int64_t> windows;
  const float* hidden = nullptr;
  std::span<const int64_t> heldout_windows;
  const float* heldout = nullptr;
  RoundMatrix round;
  // What norms and biases are stored in: a folded norm is rounded to it, and the linears behind it
  // make up for that rounding.
  DType small_dtype = DType::kF32;
};

// What was tried at one fold point (of one expert), and what came of it.
struct MappingResult {
  std::string_view producer;
  int64_t expert = -1;
  bool kept = false;
  std::string rule;         // of the scales: "mean^0.45"; empty: nothing was better on calibration
  double error_before = 0;  // |Y - Y'|^2 / |Y|^2 of the block's output, held out
  double error_after = 0;   // with the fold
};

// Kept folds, in the order in which they were found; each lowered its error with those before it.
struct LayerFold {
  FoldPoint::Kind kind = FoldPoint::Kind::kNorm;
  std::string_view producer;
  std::vector<std::string_view> consumers;
  int64_t expert = -1;  // kUp of one expert; the consumers of a norm are all experts'
  // Per channel of the producer: the consumers' columns are multiplied by it, the producer (and the
  // bias of a linear) divided.
  std::vector<float> scale;
};

struct LayerFolds {
  std::vector<LayerFold> folds;
  std::vector<MappingResult> mappings;
};

// Cost: at most 49 runs of the narrow block (calib/awq_block.h) on the calibration tokens for each
// fold point, and about nine of the whole layer on the held-out ones. With 1024 and 2048 tokens
// that comes to some 14 TFLOP for a layer of Llama 8B and 43 for one of 70B, by the shapes, not
// measured.
//
// Searches all fold points of one decoder layer. Results depend on the input only, not on threads.
// Without held-out windows nothing is kept. Errors: those of `round`; kNonFinite (an activation is
// NaN or infinite: names the weight); kInterrupted.
Result<LayerFolds> SearchAwq(const Context& context, const AwqInput& input);

// Puts the folds of a layer into a source of the model (on top of what it has), and appends them to
// `record` (may be null). Errors: kTensorMissing.
Status ApplyLayerFolds(const LayerFolds& folds, const ModelConfig& config, int64_t layer,
                       FoldedSource* source, FoldRecord* record);

// A record with a fold at every fold point of every layer: none that a search makes is longer in
// JSON when small_dtype is F32. What a GGUF file has to have room for.
FoldRecord FullRecord(const Family& family, const ModelConfig& config, const TensorSource& source);

// Takes all folds of the tensors that the layer's folds touch away again.
Status ClearLayerFolds(const LayerFolds& folds, const ModelConfig& config, int64_t layer,
                       FoldedSource* source);

}  // namespace pennyweight
