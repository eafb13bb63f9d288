#include "calib/layer_walk.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "calib/hidden_checkpoint.h"
#include "calib/hidden_error.h"
#include "calib/ops.h"
#include "calib/walk_folds.h"
#include "quant/codec.h"

namespace pennyweight {
namespace {

Status Interrupted() { return Error(ErrorCode::kInterrupted, "interrupted"); }

void Phase(const Context& context, const std::string& name, int64_t total) {
  if (context.progress != nullptr) context.progress->Phase(name, total);
}

}  // namespace

// What leads among the candidates.
struct LayerWalk::Best {
  LayerCandidate candidate;
  CandidatePlan plan;
  WindowErrors errors;
  bool is_last = false;  // the quantized stream still stands where it left it
};

std::vector<CandidatePlan> LayerWalk::Plans(const WalkInput& input, int64_t heldout_tokens) {
  switch (input.method) {
    case Method::kMinMax:
      return {{"minmax", false, Method::kMinMax}};
    case Method::kRtn:
      return {{"rtn", false, Method::kRtn}};
    case Method::kGptq:
      return {{"gptq", false, Method::kGptq}};
    case Method::kAwq:
      return {{"awq+rtn", true, Method::kRtn}};
    case Method::kAuto:
      break;
  }
  // Nothing can be chosen without tokens to choose by.
  if (heldout_tokens == 0) return {{"gptq", false, Method::kGptq}};
  return {{"rtn", false, Method::kRtn},
          {"gptq", false, Method::kAuto},
          {"awq+rtn", true, Method::kRtn},
          {"awq+gptq", true, Method::kAuto}};
}

Result<std::unique_ptr<LayerWalk>> LayerWalk::Create(const Context& context, const WalkInput& input,
                                                     const std::string& scratch_dir) {
  const uint64_t working = WorkingBytes(input), hidden = HiddenBytes(input);
  if (working > context.memory_limit) {
    return Error(ErrorCode::kMemory,
                 fmt::format("calibrating one layer needs about {} MB, the limit is {} MB",
                             working / 1000000 + 1, context.memory_limit / 1000000))
        .Hint(fmt::format("use --memory {}M or more, or --method rtn without --calib",
                          working / 1000000 + 1));
  }
  const bool spill = working + hidden > context.memory_limit;
  const uint64_t spare = context.memory_limit - working - (spill ? 0 : hidden);
  std::unique_ptr<LayerWalk> walk(new LayerWalk(input, {spare, scratch_dir}));
  PW_TRY(walk->CreateStreams(spill ? scratch_dir : std::string()));
  return walk;
}

LayerWalk::LayerWalk(const WalkInput& input, WalkMemory memory)
    : in_(input),
      family_(*input.model->family),
      config_(*input.model->config),
      tokens_(*input.windows),
      pass_(family_, config_, tokens_),
      memory_(std::move(memory)) {
  pass_.RouteAll(input.all_experts);
}

Status LayerWalk::CreateStreams(const std::string& scratch_dir) {
  const int64_t width = config_.hidden_size;
  const int64_t all = tokens_.tokens(), heldout = tokens_.heldout_tokens();
  const int64_t first = tokens_.calibration_tokens();
  const bool again = Plans(in_, heldout).size() > 1;
  const auto create = [&](bool whole, bool keeps_input,
                          std::optional<WalkStream>* stream) -> Status {
    PW_ASSIGN(*stream, WalkStream::Create(whole ? 0 : first, whole ? all : heldout, width,
                                          keeps_input, scratch_dir));
    return OkStatus();
  };
  PW_TRY(create(true, again, &quantized_));
  PW_TRY(create(Corrects(in_.method), again, &original_));
  return create(false, false, &rtn_);
}

Status LayerWalk::Stream(const Context& context, std::span<const size_t> which,
                         const RowsCallback& on_rows) {
  StreamJob job;
  job.source = in_.source;
  job.choices = in_.choices;
  job.method = in_.method;
  job.effort = in_.effort;
  job.sink = in_.sink;
  job.reports = in_.reports;
  job.sums = in_.sums;
  for (const size_t index : which) (*in_.done)[index] = 1;
  return StreamTensors(WithinCalibration(context), job, which, on_rows);
}

Status LayerWalk::Embed(const Context& context) {
  const int64_t index = in_.source->Find(family_.embedding);
  if (index < 0) {
    return Error(ErrorCode::kTensorMissing, "the model has no embedding")
        .InTensor(std::string(family_.embedding));
  }
  Phase(context, "embedding", tokens_.tokens());
  // Positions by id, so that each decoded tile finds its tokens.
  const std::vector<int32_t>& ids = tokens_.ids();
  std::vector<std::pair<int32_t, int64_t>> by_id;
  by_id.reserve(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) by_id.emplace_back(ids[i], static_cast<int64_t>(i));
  std::sort(by_id.begin(), by_id.end());
  const int64_t width = config_.hidden_size;
  const auto scatter = [&](int64_t row, int64_t rows, const float* decoded) -> Status {
    auto it = std::lower_bound(by_id.begin(), by_id.end(),
                               std::pair<int32_t, int64_t>(static_cast<int32_t>(row), 0));
    for (; it != by_id.end() && it->first < row + rows; ++it) {
      const float* values = decoded + (it->first - row) * width;
      PW_TRY(quantized_->WriteInput(it->second, 1, values));
      if (it->second >= rtn_->first_token()) PW_TRY(rtn_->WriteInput(it->second, 1, values));
    }
    return OkStatus();
  };
  const auto i = static_cast<size_t>(index);
  PW_TRY(Stream(context, std::span(&i, 1), scatter));
  std::vector<float> hidden;
  for (const WalkChunk& chunk : tokens_.chunks()) {
    if (!original_->Holds(chunk)) continue;
    hidden.resize(static_cast<size_t>(chunk.tokens * width));
    PW_TRY(EmbedTokens(
        *in_.source, family_, config_,
        std::span(ids).subspan(static_cast<size_t>(chunk.token), static_cast<size_t>(chunk.tokens)),
        hidden.data()));
    PW_TRY(original_->WriteInput(chunk.token, chunk.tokens, hidden.data()));
  }
  return OkStatus();
}

Result<LayerFolds> LayerWalk::SearchFolds(const Context& context, int64_t layer,
                                          const LayerWeights& original) {
  const std::vector<CandidatePlan> plans = Plans(in_, tokens_.heldout_tokens());
  const bool wanted =
      std::any_of(plans.begin(), plans.end(), [](const CandidatePlan& p) { return p.folded; });
  if (!wanted) return LayerFolds();
  Phase(context, fmt::format("layer {} of {}: awq search", layer + 1, config_.layers), 1);
  auto found = FindLayerFolds(context, in_, layer, original, tokens_, *quantized_);
  if (!found.ok() && found.error().code == ErrorCode::kNonFinite) {
    PW_TRY(pass_.LocateNonFinite(context, layer, {&original, &*quantized_}));
  }
  return found;
}

Result<double> LayerWalk::MeasureCandidate(const Context& context, const LayerCandidate& candidate,
                                           const LayerWeights& original, WindowErrors* errors) {
  std::vector<float> want, got;
  HiddenError error;
  const int64_t width = config_.hidden_size;
  for (const WalkChunk& chunk : tokens_.chunks()) {
    if (!chunk.heldout) continue;
    PW_TRY(pass_.Output(context, {&original, &*original_}, chunk, &want));
    PW_TRY(pass_.Output(context, {&candidate.weights, &*quantized_}, chunk, &got));
    error.Add(want, got);
    int64_t token = 0;
    for (const int64_t n : chunk.windows) {
      errors->push_back(
          WindowError(want.data() + token * width, got.data() + token * width, n, width));
      token += n;
    }
  }
  return error.RelError();
}

Status LayerWalk::Try(const Context& context, int64_t layer, const LayerWeights& original,
                      LayerFolds* folds, Best* best, LayerReport* report) {
  const std::vector<CandidatePlan> plans = Plans(in_, tokens_.heldout_tokens());
  const bool several = plans.size() > 1;
  CandidateMaker maker(context, in_, layer, memory_, !several);
  const PassSide original_side{&original, &*original_};
  for (const CandidatePlan& plan : plans) {
    // Without folds it is what the same method without them gave.
    if (plan.folded && folds->folds.empty() && several) continue;
    if (plan.folded) PW_TRY(ApplyLayerFolds(*folds, config_, layer, in_.source, nullptr));
    quantized_->Rewind();
    best->is_last = false;
    LayerCandidate made;
    PW_TRY(maker.Make(plan, &pass_, &*quantized_, original_side, tokens_, several, &made));
    WindowErrors errors;
    if (several) {
      PW_ASSIGN(const double error, MeasureCandidate(context, made, original, &errors));
      report->candidates.push_back({made.name, error});
      if (made.name == "rtn") PW_TRY(RunRtn(context, &made.weights));
    }
    if (plan.folded) PW_TRY(ClearLayerFolds(*folds, config_, layer, in_.source));
    if (!best->candidate.name.empty() && !Beats(errors, best->errors)) continue;
    *best = {std::move(made), plan, std::move(errors), true};
  }
  report->chosen = best->candidate.name;
  return OkStatus();
}

Status LayerWalk::WriteLayer(const Context& context, int64_t layer, LayerCandidate* candidate) {
  std::vector<size_t> kept;
  for (const auto& [key, weight] : candidate->weights) {
    if (weight.tiles.empty()) continue;  // a norm
    const auto index =
        static_cast<size_t>(in_.source->Find(NameFor(key.pattern, layer, key.expert)));
    const auto report = candidate->reports.find(index);
    if (report == candidate->reports.end()) {
      kept.push_back(index);
      continue;
    }
    PW_TRY(WriteTiles(weight.tiles, index, in_.sink));
    (*in_.reports)[index] = std::move(report->second);
    (*in_.done)[index] = 1;
  }
  in_.sums->Merge(candidate->sums);
  return kept.empty() ? OkStatus() : Stream(context, kept, nullptr);
}

Status LayerWalk::RunRtn(const Context& context, LayerWeights* weights) {
  return pass_.Finish(context, {weights, &*rtn_});
}

Result<LayerReport> LayerWalk::Layer(const Context& context, int64_t layer, FoldRecord* folds) {
  LayerReport report;
  report.layer = layer;
  PW_ASSIGN(LayerWeights original, LoadLayer(*in_.source, family_, config_, layer));
  PW_ASSIGN(LayerFolds found, SearchFolds(context, layer, original));
  Best best;
  PW_TRY(Try(context, layer, original, &found, &best, &report));
  if (best.plan.folded) PW_TRY(ApplyLayerFolds(found, config_, layer, in_.source, folds));
  PW_TRY(WriteLayer(context, layer, &best.candidate));

  Phase(context, fmt::format("layer {} of {}: output", layer + 1, config_.layers),
        tokens_.tokens());
  if (!best.is_last) quantized_->Rewind();
  PW_TRY(pass_.Finish(context, {&best.candidate.weights, &*quantized_}));
  PW_TRY(pass_.Finish(context, {&original, &*original_}));
  original.clear();
  if (report.candidates.empty()) {
    for (auto& [key, weight] : best.candidate.rtn) {
      best.candidate.weights[key] = std::move(weight);
    }
    PW_TRY(RunRtn(context, &best.candidate.weights));
  }
  PW_TRY(MeasureLayer(layer, &report));
  return report;
}

Status LayerWalk::MeasureLayer(int64_t layer, LayerReport* report) {
  HiddenError quantized, rtn;
  std::vector<float> want, got;
  for (const WalkChunk& chunk : tokens_.chunks()) {
    if (!chunk.heldout) continue;
    PW_TRY(original_->Read(chunk, 0, &want));
    PW_TRY(quantized_->Read(chunk, 0, &got));
    quantized.Add(want, got);
    PW_TRY(rtn_->Read(chunk, 0, &got));
    rtn.Add(want, got);
  }
  if (quantized.count() == 0) return OkStatus();
  if (!std::isfinite(quantized.RelError())) {
    return Error(ErrorCode::kNonFinite,
                 fmt::format("layer {}: what leaves the layer is not finite", layer))
        .InTensor(NameFor(LayerStages(family_).back().linears.back()->weight, layer, 0));
  }
  report->hidden_rel_error = quantized.RelError();
  report->hidden_cosine = quantized.Cosine();
  report->hidden_rel_error_rtn = rtn.RelError();
  return OkStatus();
}

Status LayerWalk::HeadInput(const WalkChunk& chunk, const std::vector<float>& gain,
                            const WalkStream& stream, std::vector<float>* normed) {
  const int64_t width = config_.hidden_size;
  PW_TRY(stream.Read(chunk, 0, normed));
  for (int64_t t = 0; t < chunk.tokens; ++t) {
    float* row = normed->data() + t * width;
    RmsNormRow(row, gain.data(), width, config_.rms_norm_eps, row);
  }
  return OkStatus();
}

Status LayerWalk::AddHeadInputs(const Context& context, const std::vector<float>& gain,
                                InputStatistics* statistics) {
  for (const WalkChunk& chunk : tokens_.chunks()) {
    if (context.Cancelled()) return Interrupted();
    PW_TRY(HeadInput(chunk, gain, *quantized_, &head_input_));
    if (original_->Holds(chunk)) PW_TRY(HeadInput(chunk, gain, *original_, &head_original_));
    if (chunk.heldout) {
      statistics->AddHeldOut(head_input_.data(), head_original_.data(), chunk.tokens);
    } else {
      PW_TRY(statistics->Add(context, head_input_.data(), head_original_.data(), chunk.tokens));
    }
  }
  return OkStatus();
}

Status LayerWalk::Head(const Context& context) {
  const int64_t index = in_.source->Find(family_.head);
  if (index < 0 || !in_.choices[static_cast<size_t>(index)].quantize) return OkStatus();
  Phase(context, "head", tokens_.tokens());
  PW_ASSIGN(const Weight norm, LoadWeight(*in_.source, family_, config_, family_.final_norm, -1));
  const int64_t width = config_.hidden_size;
  std::vector<float> gain(static_cast<size_t>(width));
  DecodeToFloat(norm.dtype, norm.data.data(), gain.data(), gain.size());
  InputStatistics statistics(width, tokens_.heldout_tokens(), Corrects(in_.method));
  MatrixJob job;
  std::optional<FactorAttempt> attempt = FactorAttempt{};
  while (attempt && !job.factored) {
    PW_TRY(AddHeadInputs(context, gain, &statistics));
    PW_ASSIGN(job.factored, statistics.Factor(context, attempt->damp, attempt->shrink));
    attempt = NextAttempt(*attempt);
  }
  if (!job.factored) {
    PW_TRY(AddHeadInputs(context, gain, &statistics));
    PW_TRY(statistics.FixMoments(context));
  }
  job.source = in_.source;
  job.index = static_cast<size_t>(index);
  job.choice = &in_.choices[job.index];
  job.method = in_.method == Method::kAwq ? Method::kRtn : in_.method;
  job.effort = in_.effort;
  job.statistics = &statistics;
  job.keep_rtn = false;
  (*in_.done)[job.index] = 1;
  PW_ASSIGN(const MatrixResult result,
            QuantizeMatrix(context, job, &(*in_.reports)[job.index], in_.sums));
  return WriteTiles(result.chosen.tiles, job.index, in_.sink);
}

Status LayerWalk::SaveStreams(const std::string& path, int64_t layer) const {
  const HiddenStore* const stores[] = {&quantized_->input(), &original_->input(), &rtn_->input()};
  return SaveHidden(path, layer, stores);
}

Result<bool> LayerWalk::LoadStreams(const std::string& path, int64_t layer) {
  HiddenStore* const stores[] = {&quantized_->input(), &original_->input(), &rtn_->input()};
  return LoadHidden(path, layer, stores);
}

}  // namespace pennyweight
