#include "calib/layer_pass.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

namespace pennyweight {
namespace {

Status Interrupted() { return Error(ErrorCode::kInterrupted, "interrupted"); }

// The first row with a value that is not finite, or -1.
int64_t FirstNonFinite(const float* values, int64_t rows, int64_t width) {
  for (int64_t i = 0; i < rows * width; ++i) {
    if (!std::isfinite(values[i])) return i / width;
  }
  return -1;
}

// False for a linear that the quantized model does not have yet.
bool HasWeight(const LayerWeights& weights, const Step& step) {
  if (step.weight.empty()) return true;
  return weights.contains({step.weight, step.kind == StepKind::kExpertLinear ? 0 : -1});
}

void Advance(const Context& context, const WalkChunk& chunk) {
  if (context.progress != nullptr) context.progress->Advance(chunk.token + chunk.tokens);
}

}  // namespace

LayerPass::LayerPass(const Family& family, const ModelConfig& config, const WalkTokens& tokens)
    : family_(family), config_(config), tokens_(tokens), runner_(family, config) {
  // Where the CPU multiplies bf16 faster, that is precise enough to learn from.
  runner_.UsePrecision(Precision::kBf16);
}

Status LayerPass::RunTo(const Context& context, const PassSide& side, const WalkChunk& chunk,
                        size_t keep, size_t to) {
  const size_t from = side.stream->From(chunk, to);
  PW_TRY(side.stream->Read(chunk, from, &hidden_));
  const size_t stop = std::max(from, keep);
  runner_.Run(context, *side.weights, chunk.windows, from, stop, hidden_.data());
  if (stop > from) PW_TRY(side.stream->Write(chunk, hidden_.data()));
  runner_.Run(context, *side.weights, chunk.windows, stop, to, hidden_.data());
  return OkStatus();
}

Status LayerPass::AddRows(const Context& context, const LayerStage& stage, const WalkChunk& chunk,
                          bool has_original, std::span<const StageInput> inputs) {
  const int64_t width = runner_.width(stage.input);
  const float* original = runner_.slot(stage.input);
  for (const StageInput& input : inputs) {
    int64_t first = 0, rows = chunk.tokens;
    if (stage.experts) {
      const auto expert = static_cast<size_t>(input.expert);
      first = routing_.begin[expert];
      rows = routing_.begin[expert + 1] - first;
    }
    if (rows == 0) continue;
    const float* x = input_.data() + first * width;
    const float* x0 = has_original ? original + first * width : nullptr;
    if (x0 != nullptr && !input.col_scale.empty()) {
      unscaled_.assign(x0, x0 + rows * width);
      for (size_t i = 0; i < unscaled_.size(); ++i) {
        unscaled_[i] /= input.col_scale[i % static_cast<size_t>(width)];
      }
      x0 = unscaled_.data();
    }
    if (chunk.heldout) {
      input.statistics->AddHeldOut(x, x0, rows);
    } else {
      PW_TRY(input.statistics->Add(context, x, x0, rows));
    }
  }
  return OkStatus();
}

Status LayerPass::Accumulate(const Context& context, const LayerStage& stage,
                             const PassSide& quantized, const PassSide& original,
                             std::span<const StageInput> inputs) {
  const bool drift = std::any_of(inputs.begin(), inputs.end(), [](const StageInput& input) {
    return input.statistics->with_drift();
  });
  const auto wants = [&](const WalkChunk& chunk) { return chunk.heldout || drift; };
  for (const WalkChunk& chunk : tokens_.chunks()) {
    if (context.Cancelled()) return Interrupted();
    const size_t keep =
        quantized.stream->From(chunk, stage.first_step) < stage.keep ? stage.keep : 0;
    PW_TRY(RunTo(context, quantized, chunk, keep, stage.first_step));
    const float* x = runner_.slot(stage.input);
    input_.assign(x, x + runner_.rows(stage.input) * runner_.width(stage.input));
    if (stage.experts) routing_ = runner_.routing();
    if (wants(chunk)) {
      const size_t from = original.stream->From(chunk, stage.first_step);
      if (stage.experts) runner_.ForceRouting(&routing_);
      Status status =
          RunTo(context, original, chunk, from < stage.keep ? stage.keep : 0, stage.first_step);
      runner_.ForceRouting(nullptr);
      PW_TRY(std::move(status));
    }
    PW_TRY(AddRows(context, stage, chunk, wants(chunk), inputs));
    Advance(context, chunk);
  }
  for (const bool heldout : {false, true}) {
    WalkChunk kind;
    kind.heldout = heldout;
    for (const PassSide* side : {&quantized, &original}) {
      if (side == &original && !heldout && !drift) continue;
      if (side->stream->From(kind, stage.first_step) < stage.keep) {
        side->stream->Reached(heldout, stage.keep);
      }
    }
  }
  return OkStatus();
}

Status LayerPass::Finish(const Context& context, const PassSide& side) {
  const size_t end = family_.layer.size();
  for (const WalkChunk& chunk : tokens_.chunks()) {
    if (!side.stream->Holds(chunk)) continue;
    if (context.Cancelled()) return Interrupted();
    PW_TRY(RunTo(context, side, chunk, 0, end));
    PW_TRY(side.stream->Write(chunk, hidden_.data()));
    Advance(context, chunk);
  }
  side.stream->EndLayer();
  return OkStatus();
}

Status LayerPass::Output(const Context& context, const PassSide& side, const WalkChunk& chunk,
                         std::vector<float>* out) {
  if (context.Cancelled()) return Interrupted();
  PW_TRY(RunTo(context, side, chunk, 0, family_.layer.size()));
  out->assign(hidden_.begin(), hidden_.end());
  return OkStatus();
}

Status LayerPass::LocateNonFinite(const Context& context, int64_t layer, const PassSide& side) {
  for (const WalkChunk& chunk : tokens_.chunks()) {
    if (!side.stream->Holds(chunk)) continue;
    if (context.Cancelled()) return Interrupted();
    const size_t from = side.stream->From(chunk, family_.layer.size());
    PW_TRY(side.stream->Read(chunk, from, &hidden_));
    std::string_view weight = family_.embedding;
    for (size_t i = from; i <= family_.layer.size(); ++i) {
      const bool state = i == from || family_.layer[i - 1].out == Slot::kHidden;
      const Slot slot = state ? Slot::kHidden : family_.layer[i - 1].out;
      const float* values = state ? hidden_.data() : runner_.slot(slot);
      const int64_t rows = state ? chunk.tokens : runner_.rows(slot);
      const int64_t row = FirstNonFinite(values, rows, runner_.width(slot));
      if (row >= 0) {
        const bool routed = rows != chunk.tokens && !runner_.routing().token.empty();
        const int64_t token = routed ? runner_.routing().token[static_cast<size_t>(row)] : row;
        const std::string where = i == from && from == 0
                                      ? std::string("in the states that enter the layer")
                                      : fmt::format("behind {}", NameFor(weight, layer, 0));
        return Error(ErrorCode::kNonFinite,
                     fmt::format("layer {}: activations are not finite {}, first at token {} of "
                                 "the calibration text",
                                 layer, where, chunk.token + token))
            .InTensor(NameFor(weight, layer, 0));
      }
      if (i == family_.layer.size() || !HasWeight(*side.weights, family_.layer[i])) break;
      if (!family_.layer[i].weight.empty()) weight = family_.layer[i].weight;
      runner_.Run(context, *side.weights, chunk.windows, i, i + 1, hidden_.data());
    }
  }
  return OkStatus();
}

}  // namespace pennyweight
