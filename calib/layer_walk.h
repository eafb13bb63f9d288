// The calibrated walk: one decoder layer at a time, each quantized in one or several ways under the
// activations that the already quantized part of the model produces.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "calib/awq_search.h"
#include "calib/choose_candidate.h"
#include "calib/layer_candidate.h"
#include "calib/layer_pass.h"
#include "calib/stream_tensors.h"
#include "calib/walk_input.h"
#include "calib/walk_stream.h"
#include "calib/walk_tokens.h"
#include "lib/context.h"
#include "lib/report.h"
#include "lib/result.h"

namespace pennyweight {

class LayerWalk {
 public:
  // scratch_dir: where hidden states and panels of Hessians go when they do not fit
  // context.memory_limit.
  // Errors: kMemory when even then one layer does not fit, naming what is needed.
  static Result<std::unique_ptr<LayerWalk>> Create(const Context& context, const WalkInput& input,
                                                   const std::string& scratch_dir);

  // Bytes that a walk needs beside the hidden states (an upper estimate), and for them.
  static uint64_t WorkingBytes(const WalkInput& input);
  static uint64_t HiddenBytes(const WalkInput& input);
  // Columns of the widest input whose Hessian is kept in panels, 0: there is none. WorkingBytes
  // counts PanelMatrix::LeastBytes for it.
  static int64_t PanelWidth(const WalkInput& input);
  // What is tried on every layer, rtn first.
  static std::vector<CandidatePlan> Plans(const WalkInput& input, int64_t heldout_tokens);

  // Writes the embedding and fills the streams with it. First.
  Status Embed(const Context& context);
  // Quantizes decoder layer `layer`; in order, each once. Appends the folds that stay to `folds`.
  Result<LayerReport> Layer(const Context& context, int64_t layer, FoldRecord* folds);
  // Quantizes the head under its own input, where the model has one and it is to be quantized.
  Status Head(const Context& context);

  // Keeps the streams behind `layer` in a file, as SaveHidden.
  Status SaveStreams(const std::string& path, int64_t layer) const;
  // Fills them from there: the next layer is then layer + 1. False as LoadHidden.
  Result<bool> LoadStreams(const std::string& path, int64_t layer);

 private:
  struct Best;  // the candidate that leads, of one layer

  LayerWalk(const WalkInput& input, WalkMemory memory);
  Status CreateStreams(const std::string& scratch_dir);
  // Writes tensors that need no calibration.
  Status Stream(const Context& context, std::span<const size_t> which, const RowsCallback& on_rows);

  // Looks for folds where a plan wants some.
  Result<LayerFolds> SearchFolds(const Context& context, int64_t layer,
                                 const LayerWeights& original);
  // Makes one candidate, with its folds in the source.
  Result<LayerCandidate> MakeCandidate(const Context& context, int64_t layer,
                                       const CandidatePlan& plan, const LayerFolds& folds,
                                       const LayerWeights& original, CandidateMaker* maker);
  // Tries all plans; the report tells of each.
  Status Try(const Context& context, int64_t layer, const LayerWeights& original, LayerFolds* folds,
             Best* best, LayerReport* report);
  // What the candidate misses on each held-out window; its error over all is returned.
  Result<double> MeasureCandidate(const Context& context, const LayerCandidate& candidate,
                                  const LayerWeights& original, WindowErrors* errors);
  Status WriteLayer(const Context& context, int64_t layer, LayerCandidate* candidate);
  Status RunRtn(const Context& context, LayerWeights* weights);
  Status MeasureLayer(int64_t layer, LayerReport* report);

  // The rows of the head's input.
  Status HeadInput(const WalkChunk& chunk, const std::vector<float>& gain, const WalkStream& stream,
                   std::vector<float>* normed);
  Status AddHeadInputs(const Context& context, const std::vector<float>& gain,
                       InputStatistics* statistics);

  WalkInput in_;
  const Family& family_;
  const ModelConfig& config_;
  WalkTokens tokens_;
  LayerPass pass_;
  WalkMemory memory_;
  std::vector<float> head_input_, head_original_;  // of one chunk
  std::optional<WalkStream> quantized_;            // all tokens
  std::optional<WalkStream> original_;  // all tokens where gptq corrects, else the held-out ones
  std::optional<WalkStream> rtn_;       // held-out tokens
};

}  // namespace pennyweight
