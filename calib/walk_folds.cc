#include "calib/walk_folds.h"

#include <algorithm>
#include <vector>

#include "quant/codec.h"
#include "quant/method.h"

namespace pennyweight {
namespace {

// Whole windows of one kind, and the states that enter the layer.
struct Sample {
  std::vector<int64_t> windows;
  std::vector<float> hidden;
};

Status Take(const WalkTokens& tokens, const WalkStream& stream, bool heldout, int64_t limit,
            int64_t width, Sample* sample) {
  int64_t taken = 0;
  for (const WalkChunk& chunk : tokens.chunks()) {
    if (chunk.heldout != heldout) continue;
    int64_t token = chunk.token;
    for (const int64_t n : chunk.windows) {
      if (taken > 0 && taken + n > limit) return OkStatus();
      sample->windows.push_back(n);
      sample->hidden.resize(static_cast<size_t>((taken + n) * width));
      PW_TRY(stream.ReadInput(token, n, sample->hidden.data() + taken * width));
      taken += n;
      token += n;
    }
  }
  return OkStatus();
}

// What norms and biases of the layer are stored in.
DType SmallDType(const WalkInput& input, int64_t layer) {
  for (const Step& step : input.model->family->layer) {
    if (step.kind != StepKind::kRmsNorm) continue;
    const int64_t index = input.source->Find(NameFor(step.weight, layer));
    if (index < 0) continue;
    const Encoding& to = input.choices[static_cast<size_t>(index)].encoding;
    if (to.kind == Encoding::Kind::kPlain) return to.dtype;
  }
  return DType::kF32;
}

}  // namespace

Result<LayerFolds> FindLayerFolds(const Context& context, const WalkInput& input, int64_t layer,
                                  const LayerWeights& original, const WalkTokens& tokens,
                                  const WalkStream& quantized) {
  const int64_t width = input.model->config->hidden_size;
  Sample fitted, heldout;
  PW_TRY(Take(tokens, quantized, false, kFoldTokens, width, &fitted));
  PW_TRY(Take(tokens, quantized, true, kFoldHeldOutTokens, width, &heldout));
  AwqInput awq;
  awq.family = input.model->family;
  awq.config = &*input.model->config;
  awq.layer = layer;
  awq.weights = &original;
  awq.windows = fitted.windows;
  awq.hidden = fitted.hidden.data();
  awq.heldout_windows = heldout.windows;
  awq.heldout = heldout.hidden.data();
  awq.small_dtype = SmallDType(input, layer);
  EncodedTensor tile;
  awq.round = [&](std::string_view pattern, int64_t expert, const float* w, int64_t rows,
                  int64_t cols, std::span<const float> importance, float* decoded) -> Status {
    const std::string name = NameFor(pattern, layer, expert);
    const int64_t index = input.source->Find(name);
    if (index < 0) {
      return Error(ErrorCode::kTensorMissing, "the family needs this tensor").InTensor(name);
    }
    const Choice& choice = input.choices[static_cast<size_t>(index)];
    if (!choice.quantize && choice.encoding.kind != Encoding::Kind::kPlain) {
      std::copy_n(w, rows * cols, decoded);
      return OkStatus();
    }
    Status status = QuantizeRtn(context, choice.encoding, w, rows, cols,
                                choice.quantize ? importance : std::span<const float>(),
                                ScaleSearch::kSearch, &tile, input.effort);
    if (!status.ok()) return std::move(status).TakeError().InTensor(name);
    DecodeRows(tile, 0, rows, decoded);
    return OkStatus();
  };
  return SearchAwq(context, awq);
}

}  // namespace pennyweight
