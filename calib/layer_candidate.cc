#include "calib/layer_candidate.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "calib/scaled_tensor.h"
#include "lib/checked.h"
#include "quant/codec.h"
#include "quant/method.h"

namespace pennyweight {
struct CandidateMaker::Run {
  const CandidatePlan* plan;
  LayerPass* pass;
  PassSide quantized;  // under out->weights
  PassSide original;
  const WalkTokens* tokens;
  LayerCandidate* out;
  // Of a stage of experts: their second moments together, that each one's are shrunk towards.
  std::vector<float> prior = {};
  int64_t prior_tokens = 0;
  bool prior_is_mean = false;  // else it is a sum still
};

CandidateMaker::CandidateMaker(const Context& context, const WalkInput& input, int64_t layer,
                               const WalkMemory& memory, bool keep_rtn)
    : context_(context),
      in_(input),
      family_(*input.model->family),
      config_(*input.model->config),
      layer_(layer),
      memory_(memory),
      keep_rtn_(keep_rtn),
      stages_(LayerStages(family_)) {}

Status CandidateMaker::LoadNorms(LayerCandidate* out) const {
  for (const Step& step : family_.layer) {
    if (step.kind != StepKind::kRmsNorm) continue;
    PW_ASSIGN((out->weights[{step.weight}]),
              LoadWeight(*in_.source, family_, config_, step.weight, layer_));
  }
  return OkStatus();
}

Result<std::vector<CandidateMaker::Linear>> CandidateMaker::LinearsOf(const LayerStage& stage,
                                                                      int64_t expert) const {
  std::vector<Linear> linears;
  for (const Step* step : stage.linears) {
    const std::string name = NameFor(step->weight, layer_, expert);
    const int64_t index = in_.source->Find(name);
    if (index < 0) {
      return Error(ErrorCode::kTensorMissing, "the family needs this tensor").InTensor(name);
    }
    linears.push_back({step, static_cast<size_t>(index), expert});
  }
  return linears;
}

Status CandidateMaker::Make(const CandidatePlan& plan, LayerPass* pass, WalkStream* quantized,
                            const PassSide& original, const WalkTokens& tokens, bool share_first,
                            LayerCandidate* out) {
  out->name = plan.name;
  PW_TRY(LoadNorms(out));
  Run run{&plan, pass, {&out->weights, quantized}, original, &tokens, out};
  for (size_t i = 0; i < stages_.size(); ++i) {
    if (context_.progress != nullptr) {
      context_.progress->Phase(fmt::format("layer {} of {}, {}: {}", layer_ + 1, config_.layers,
                                           plan.name, stages_[i].name),
                               tokens.tokens());
    }
    PW_TRY(DoStage(stages_[i], &run, share_first && i == 0 && !stages_[i].experts));
  }
  return OkStatus();
}

Status CandidateMaker::DoStage(const LayerStage& stage, Run* run, bool share) {
  std::vector<int64_t> experts{-1};
  if (stage.experts) {
    experts.resize(static_cast<size_t>(config_.experts));
    std::iota(experts.begin(), experts.end(), int64_t{0});
  }
  std::vector<int64_t> quantized;  // experts with something to learn for
  int64_t cols = 1;
  for (const int64_t expert : experts) {
    PW_ASSIGN(const std::vector<Linear> linears, LinearsOf(stage, expert));
    bool any = false;
    for (const Linear& linear : linears) {
      if (in_.choices[linear.index].quantize) {
        any = true;
        cols = in_.source->tensors()[linear.index].cols();
      } else {
        PW_TRY(Keep(linear, run));
      }
    }
    if (any) quantized.push_back(expert);
  }
  // As many inputs at a time as there is memory for.
  const uint64_t bytes = InputStatistics::Bytes(cols, 0, Corrects(run->plan->method));
  const size_t group = std::max<size_t>(1, memory_.spare / std::max<uint64_t>(1, bytes));
  std::vector<std::span<const int64_t>> groups;
  for (size_t i = 0; i < quantized.size(); i += group) {
    groups.push_back(std::span(quantized).subspan(i, std::min(group, quantized.size() - i)));
  }
  run->prior.clear();
  run->prior_tokens = 0;
  run->prior_is_mean = false;
  if (stage.experts && groups.size() > 1) {
    // What they have in common has to be known before the first of them.
    for (const auto some : groups) PW_TRY(AddPrior(stage, some, cols, run));
  }
  for (const auto some : groups) PW_TRY(DoInputs(stage, some, run, share));
  return OkStatus();
}

Status CandidateMaker::AddPrior(const LayerStage& stage, std::span<const int64_t> experts,
                                int64_t cols, Run* run) const {
  std::vector<InputStatistics> statistics;
  std::vector<StageInput> inputs;
  for (size_t i = 0; i < experts.size(); ++i) statistics.emplace_back(cols, 0, false);
  for (size_t i = 0; i < experts.size(); ++i) {
    inputs.push_back({experts[i], {}, &statistics[i]});
    const Fold* fold = FoldOf(stage, experts[i]);
    if (fold != nullptr) inputs.back().col_scale = fold->col_scale;
  }
  PW_TRY(run->pass->Accumulate(context_, stage, run->quantized, run->original, inputs));
  for (const InputStatistics& each : statistics) AddToPrior(each, run);
  return OkStatus();
}

void CandidateMaker::AddToPrior(const InputStatistics& statistics, Run* run) {
  run->prior.resize(static_cast<size_t>(statistics.k() * statistics.k()));
  statistics.AddSums(run->prior.data());
  run->prior_tokens += statistics.tokens();
}

// The second moments of all experts' rows together; nullptr when there are none.
const float* CandidateMaker::MeanPrior(Run* run) {
  if (run->prior_tokens == 0) return nullptr;
  if (!run->prior_is_mean) {
    const float scale = 1.0f / static_cast<float>(run->prior_tokens);
    for (float& v : run->prior) v *= scale;
    run->prior_is_mean = true;
  }
  return run->prior.data();
}

const Fold* CandidateMaker::FoldOf(const LayerStage& stage, int64_t expert) const {
  // All linears of an input are multiplied by the same scales.
  const int64_t index = in_.source->Find(NameFor(stage.linears.front()->weight, layer_, expert));
  return index < 0 ? nullptr : in_.source->FoldOf(static_cast<size_t>(index));
}

Status CandidateMaker::DoInputs(const LayerStage& stage, std::span<const int64_t> experts, Run* run,
                                bool share) {
  std::vector<std::vector<Linear>> linears;
  std::vector<StageInput> inputs;
  for (const int64_t expert : experts) {
    PW_ASSIGN(linears.emplace_back(), LinearsOf(stage, expert));
    StageInput input;
    input.expert = expert;
    const Fold* fold = FoldOf(stage, expert);
    if (fold != nullptr) input.col_scale = fold->col_scale;
    inputs.push_back(std::move(input));
  }
  StageStatistics own;
  StageStatistics* statistics = &own;
  if (share) {
    PW_TRY(Share(stage, inputs, run));
    statistics = &*first_;
  } else {
    PW_ASSIGN(own, Gather(stage, inputs, Corrects(run->plan->method), run));
  }
  for (size_t i = 0; i < linears.size(); ++i) {
    InputPlan plan;
    for (const Linear& linear : linears[i]) {
      if (!in_.choices[linear.index].quantize) continue;
      PW_TRY(Quantize(linear, statistics->inputs[i], statistics->factored[i] != 0, &plan, run));
    }
  }
  return OkStatus();
}

// The first stage's statistics, in the scale of this candidate's folds.
Status CandidateMaker::Share(const LayerStage& stage, std::span<const StageInput> inputs,
                             Run* run) {
  const std::vector<float>& scale = inputs[0].col_scale;
  if (!first_) {
    // Any of the candidates may want the correction.
    PW_ASSIGN(first_, Gather(stage, inputs, Corrects(in_.method), run));
  } else if (scale != first_scale_) {
    std::vector<float> change(static_cast<size_t>(first_->inputs[0].k()), 1.0f);
    for (size_t i = 0; i < change.size(); ++i) {
      if (!scale.empty()) change[i] = scale[i];
      if (!first_scale_.empty()) change[i] /= first_scale_[i];
    }
    PW_TRY(first_->inputs[0].Rescale(context_, change));
  }
  first_scale_ = scale;
  return OkStatus();
}

Result<StageStatistics> CandidateMaker::Gather(const LayerStage& stage,
                                               std::span<const StageInput> inputs, bool drift,
                                               Run* run) const {
  PW_ASSIGN(const std::vector<Linear> first, LinearsOf(stage, inputs[0].expert));
  const int64_t cols = in_.source->tensors()[first[0].index].cols();
  const int64_t heldout = stage.experts ? 0 : run->tokens->heldout_tokens();
  StageStatistics statistics;
  statistics.factored.resize(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    std::optional<PanelMatrix> panels;
    if (InPanels(cols, stage.experts)) {
      const uint64_t bytes = PanelMatrix::LeastBytes(cols) + memory_.spare;
      PW_ASSIGN(panels, PanelMatrix::Create(cols, bytes, memory_.scratch_dir));
    }
    statistics.inputs.emplace_back(cols, heldout, drift, std::move(panels));
  }
  Status status = FactorAll(stage, inputs, run, &statistics);
  if (status.ok()) return statistics;
  if (status.error().code != ErrorCode::kNonFinite) return std::move(status).TakeError();
  for (const PassSide& side : {run->quantized, run->original}) {
    PW_TRY(run->pass->LocateNonFinite(context_, layer_, side));
  }
  return std::move(status).TakeError().InTensor(NameFor(first[0].step->weight, layer_, 0));
}

Status CandidateMaker::FactorAll(const LayerStage& stage, std::span<const StageInput> inputs,
                                 Run* run, StageStatistics* statistics) const {
  std::vector<size_t> open(inputs.size());
  std::iota(open.begin(), open.end(), size_t{0});
  for (std::optional<FactorAttempt> attempt = FactorAttempt{}; !open.empty();) {
    std::vector<StageInput> adding;
    for (const size_t i : open) {
      adding.push_back(inputs[i]);
      adding.back().statistics = &statistics->inputs[i];
    }
    PW_TRY(run->pass->Accumulate(context_, stage, run->quantized, run->original, adding));
    if (stage.experts && run->prior.empty()) {
      for (const InputStatistics& each : statistics->inputs) AddToPrior(each, run);
    }
    const float* prior = MeanPrior(run);
    std::vector<size_t> failed;
    for (const size_t i : open) {
      InputStatistics& each = statistics->inputs[i];
      if (!attempt) {
        // Without the factor the second moments still weigh the scale search.
        PW_TRY(each.FixMoments(context_));
        continue;
      }
      PW_ASSIGN(const bool ok, each.Factor(context_, attempt->damp, attempt->shrink, prior));
      statistics->factored[i] = ok ? 1 : 0;
      if (!ok) failed.push_back(i);
    }
    open = std::move(failed);
    if (attempt) attempt = NextAttempt(*attempt);
  }
  return OkStatus();
}

Result<Weight> CandidateMaker::Header(const Linear& linear) const {
  return LoadBiasAndShape(*in_.source, family_, config_, linear.step->weight, layer_,
                          linear.expert);
}

Status CandidateMaker::Keep(const Linear& linear, Run* run) {
  const TensorInfo& info = in_.source->tensors()[linear.index];
  const Encoding& to = in_.choices[linear.index].encoding;
  PW_ASSIGN(Weight weight, Header(linear));
  const int64_t step = AlignTileRows(TileRows(info.cols()), to, info.cols());
  std::vector<float> values;
  for (int64_t row = 0; row < info.rows(); row += step) {
    const int64_t rows = std::min(step, info.rows() - row);
    EncodedTensor& tile = weight.tiles.emplace_back();
    if (to == info.encoding) {
      PW_TRY(in_.source->ReadRows(linear.index, row, rows, &tile));
      continue;
    }
    values.resize(static_cast<size_t>(rows * info.cols()));
    PW_TRY(ReadFloatRows(*in_.source, linear.index, row, rows, values.data()));
    Status status = QuantizeRtn(context_, to, values.data(), rows, info.cols(), {},
                                ScaleSearch::kMinMax, &tile, in_.effort);
    if (!status.ok()) return std::move(status).TakeError().InTensor(info.name).InFile(info.file);
  }
  run->out->weights[linear.key()] = std::move(weight);
  return OkStatus();
}

Status CandidateMaker::Quantize(const Linear& linear, const InputStatistics& statistics,
                                bool factored, InputPlan* plan, Run* run) {
  MatrixJob job;
  job.source = in_.source;
  job.index = linear.index;
  job.choice = &in_.choices[linear.index];
  job.method = run->plan->method;
  job.effort = in_.effort;
  job.statistics = &statistics;
  job.factored = factored;
  job.plan = plan;
  job.keep_rtn = keep_rtn_;
  if (const Fold* fold = in_.source->FoldOf(linear.index)) {
    job.row_scale = fold->row_scale;
    job.col_scale = fold->col_scale;
  }
  TensorReport report = (*in_.reports)[linear.index];
  PW_ASSIGN(MatrixResult result, QuantizeMatrix(context_, job, &report, &run->out->sums));
  if (linear.expert >= 0 && statistics.tokens() == 0) {
    report.fallback = run->prior_tokens > 0
                          ? "no calibration token reached this expert: by what all others saw"
                          : "no calibration token reached any expert: unweighted";
  }
  run->out->reports[linear.index] = std::move(report);
  PW_ASSIGN(Weight weight, Header(linear));
  if (!result.rtn.tiles.empty()) {
    Weight& rtn = run->out->rtn[linear.key()] = weight;
    rtn.tiles = std::move(result.rtn.tiles);
  }
  weight.tiles = std::move(result.chosen.tiles);
  run->out->weights[linear.key()] = std::move(weight);
  return OkStatus();
}

}  // namespace pennyweight
