// One way to quantize a decoder layer, carried through the whole layer: stage by stage, each under
// the activations of its own already quantized part.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "calib/layer_pass.h"
#include "calib/layer_stages.h"
#include "calib/matrix_job.h"
#include "calib/walk_input.h"
#include "lib/report.h"

namespace pennyweight {

// rewrite and method of a candidate.
struct CandidatePlan {
  std::string_view name;         // "awq+gptq"
  bool folded = false;           // under the folds that the awq search found
  Method method = Method::kRtn;  // kAuto: gptq, but rtn for a matrix whose held-out error rises
};

// What a walk may take beside LayerWalk::WorkingBytes: for the statistics of more inputs that are
// summed in one pass, or more panels of a wide one; the others are kept in a file of scratch_dir.
struct WalkMemory {
  uint64_t spare = 0;
  std::string scratch_dir;
};

struct LayerCandidate {
  std::string name;
  LayerWeights weights;                    // what would be written, still encoded, and the norms
  LayerWeights rtn;                        // of matrices where rtn was not chosen; when asked for
  std::map<size_t, TensorReport> reports;  // by tensor of the source
  ErrorSums sums;
};

// The statistics of a stage's inputs, factored where that could be done.
struct StageStatistics {
  std::vector<InputStatistics> inputs;
  std::vector<char> factored;
};

// Makes candidates of one layer.
class CandidateMaker {
 public:
  // Whether the Hessian of so wide an input is kept in panels: those of experts are not, which are
  // mixed with what all of them have in common.
  static bool InPanels(int64_t cols, bool experts) {
    return !experts && cols > InputStatistics::kMaxDriftWidth;
  }

  // Everything outlives it. The result does not depend on `memory`. keep_rtn: LayerCandidate::rtn
  // is wanted.
  CandidateMaker(const Context& context, const WalkInput& input, int64_t layer,
                 const WalkMemory& memory, bool keep_rtn);

  // Fills `out`. The original model's side is run on as far as the last stage; the quantized side
  // begins at the layer's input. With `share_first`, statistics of the layer's first stage are kept
  // for the next candidate: they come before anything that candidates differ in.
  Status Make(const CandidatePlan& plan, LayerPass* pass, WalkStream* quantized,
              const PassSide& original, const WalkTokens& tokens, bool share_first,
              LayerCandidate* out);

 private:
  struct Run;  // what one Make works with
  struct Linear {
    const Step* step = nullptr;
    size_t index = 0;  // of the source's tensor
    int64_t expert = -1;
    WeightKey key() const { return {step->weight, expert}; }
  };

  Result<std::vector<Linear>> LinearsOf(const LayerStage& stage, int64_t expert) const;
  Status LoadNorms(LayerCandidate* out) const;
  Status DoStage(const LayerStage& stage, Run* run, bool share);
  Status DoInputs(const LayerStage& stage, std::span<const int64_t> experts, Run* run, bool share);
  // Of a stage of experts: what they have in common.
  Status AddPrior(const LayerStage& stage, std::span<const int64_t> experts, int64_t cols,
                  Run* run) const;
  static const float* MeanPrior(Run* run);
  static void AddToPrior(const InputStatistics& statistics, Run* run);
  // What was folded into the linears of an input, or nullptr.
  const Fold* FoldOf(const LayerStage& stage, int64_t expert) const;
  Status Share(const LayerStage& stage, std::span<const StageInput> inputs, Run* run);
  Result<StageStatistics> Gather(const LayerStage& stage, std::span<const StageInput> inputs,
                                 bool drift, Run* run) const;
  Status FactorAll(const LayerStage& stage, std::span<const StageInput> inputs, Run* run,
                   StageStatistics* statistics) const;
  Status Quantize(const Linear& linear, const InputStatistics& statistics, bool factored,
                  InputPlan* plan, Run* run);
  // The matrix as it will stand in the output without being quantized.
  Status Keep(const Linear& linear, Run* run);
  Result<Weight> Header(const Linear& linear) const;

  const Context& context_;
  const WalkInput& in_;
  const Family& family_;
  const ModelConfig& config_;
  int64_t layer_;
  const WalkMemory& memory_;
  bool keep_rtn_;
  std::vector<LayerStage> stages_;
  std::optional<StageStatistics> first_;  // of the first stage, shared
  std::vector<float> first_scale_;        // what first_ was divided by
};

}  // namespace pennyweight
