// Passes of all tokens through a part of a decoder layer: to the input of a stage, where its
// statistics are summed, or on to the layer's end.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "calib/forward.h"
#include "calib/input_statistics.h"
#include "calib/layer_stages.h"
#include "calib/walk_stream.h"
#include "calib/walk_tokens.h"
#include "lib/context.h"
#include "lib/result.h"

namespace pennyweight {

// What is summed of one input of a stage: all tokens' rows, or those of one expert.
struct StageInput {
  int64_t expert = -1;
  // What the original model's rows are divided by, where a scale was folded into the matrices that
  // read them; empty: nothing.
  std::vector<float> col_scale;
  InputStatistics* statistics = nullptr;
};

// One side of a pass: a model's weights of the layer, and its states.
struct PassSide {
  const LayerWeights* weights = nullptr;
  WalkStream* stream = nullptr;
};

class LayerPass {
 public:
  // Everything outlives it.
  LayerPass(const Family& family, const ModelConfig& config, const WalkTokens& tokens);

  // --all-experts: every expert sees every token.
  void RouteAll(bool all) { runner_.RouteAll(all); }

  // Adds all tokens to `inputs` of the stage, calibration and held-out ones: the quantized model's
  // rows, and those of the original for the same tokens of the same expert. States are kept at
  // stage.keep, where they had not got that far. Errors: those of the streams; kInterrupted.
  Status Accumulate(const Context& context, const LayerStage& stage, const PassSide& quantized,
                    const PassSide& original, std::span<const StageInput> inputs);

  // Runs all that a side's stream holds on to the layer's end: the next layer's input.
  Status Finish(const Context& context, const PassSide& side);

  // The layer's output for a chunk, wherever its states are; they stay there.
  Status Output(const Context& context, const PassSide& side, const WalkChunk& chunk,
                std::vector<float>* out);

  // Where the first value of the layer that is not finite comes from, as an error (kNonFinite) that
  // names the weight behind which it stands, and the token; Ok: all are finite.
  Status LocateNonFinite(const Context& context, int64_t layer, const PassSide& side);

 private:
  // The chunk's states run on to step `to`; they are kept at `keep` on the way. Sets hidden_.
  Status RunTo(const Context& context, const PassSide& side, const WalkChunk& chunk, size_t keep,
               size_t to);
  Status AddRows(const Context& context, const LayerStage& stage, const WalkChunk& chunk,
                 bool has_original, std::span<const StageInput> inputs);

  const Family& family_;
  const ModelConfig& config_;
  const WalkTokens& tokens_;
  LayerRunner runner_;
  std::vector<float> hidden_;    // of one chunk
  std::vector<float> input_;     // of one chunk: a stage's input in the quantized model
  std::vector<float> unscaled_;  // rows of the original model, divided by a col_scale
  Routing routing_;              // of one chunk in the quantized model
};

}  // namespace pennyweight
