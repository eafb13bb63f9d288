#include "calib/compare_layers.h"

#include "calib/forward.h"
#include "calib/hidden_error.h"
#include "calib/hidden_store.h"
#include "calib/run_model.h"

namespace pennyweight {
namespace {

// One model's stream of hidden states.
struct Stream {
  const Model* model;
  HiddenStore hidden;
  LayerRunner runner;
};

Status Embed(const std::vector<WindowChunk>& chunks, const Windows& windows, Stream* stream,
             std::vector<float>* values) {
  const ModelConfig& config = *stream->model->config;
  for (const WindowChunk& chunk : chunks) {
    values->resize(static_cast<size_t>(chunk.tokens * config.hidden_size));
    const auto ids =
        std::span(windows.ids)
            .subspan(static_cast<size_t>(chunk.token), static_cast<size_t>(chunk.tokens));
    PW_TRY(
        EmbedTokens(*stream->model->source, *stream->model->family, config, ids, values->data()));
    PW_TRY(stream->hidden.Write(chunk.token, chunk.tokens, values->data()));
  }
  return OkStatus();
}

Status RunLayer(const Context& context, const std::vector<WindowChunk>& chunks, int64_t layer,
                Stream* stream, std::vector<float>* values) {
  const Model& model = *stream->model;
  PW_ASSIGN(const LayerWeights weights,
            LoadLayer(*model.source, *model.family, *model.config, layer));
  for (const WindowChunk& chunk : chunks) {
    if (context.Cancelled()) return Error(ErrorCode::kInterrupted, "interrupted");
    values->resize(static_cast<size_t>(chunk.tokens * model.config->hidden_size));
    PW_TRY(stream->hidden.Read(chunk.token, chunk.tokens, values->data()));
    stream->runner.Run(context, weights, chunk.windows, 0, model.family->layer.size(),
                       values->data());
    PW_TRY(stream->hidden.Write(chunk.token, chunk.tokens, values->data()));
  }
  return OkStatus();
}

}  // namespace

Result<std::vector<LayerReport>> CompareLayers(const Context& context, const Model& original,
                                               const Model& other, const Windows& windows,
                                               const std::string& scratch_dir) {
  const ModelConfig& a = *original.config;
  const ModelConfig& b = *other.config;
  if (!SameComputation(*original.family, *other.family) || a.hidden_size != b.hidden_size ||
      a.layers != b.layers || a.vocab_size != b.vocab_size) {
    return Error(ErrorCode::kConfigInvalid,
                 "the two models differ in family, hidden size, layers or vocabulary");
  }
  const uint64_t bytes = 2 * static_cast<uint64_t>(windows.tokens() * a.hidden_size) * 4;
  const std::string dir = bytes > context.memory_limit / 2 ? scratch_dir : std::string();
  PW_ASSIGN(HiddenStore first, HiddenStore::Create(windows.tokens(), a.hidden_size, dir));
  PW_ASSIGN(HiddenStore second, HiddenStore::Create(windows.tokens(), a.hidden_size, dir));
  Stream want{&original, std::move(first), LayerRunner(*original.family, a)};
  Stream got{&other, std::move(second), LayerRunner(*other.family, b)};
  const std::vector<WindowChunk> chunks = CutChunks(windows.lengths);
  std::vector<float> x, y;
  PW_TRY(Embed(chunks, windows, &want, &x));
  PW_TRY(Embed(chunks, windows, &got, &x));
  std::vector<LayerReport> reports;
  if (context.progress) context.progress->Phase("comparing layers", a.layers);
  for (int64_t layer = 0; layer < a.layers; ++layer) {
    PW_TRY(RunLayer(context, chunks, layer, &want, &x));
    PW_TRY(RunLayer(context, chunks, layer, &got, &x));
    HiddenError error;
    for (const WindowChunk& chunk : chunks) {
      x.resize(static_cast<size_t>(chunk.tokens * a.hidden_size));
      y.resize(x.size());
      PW_TRY(want.hidden.Read(chunk.token, chunk.tokens, x.data()));
      PW_TRY(got.hidden.Read(chunk.token, chunk.tokens, y.data()));
      error.Add(x, y);
    }
    LayerReport report;
    report.layer = layer;
    report.hidden_rel_error = error.RelError();
    report.hidden_cosine = error.Cosine();
    reports.push_back(report);
    if (context.progress) context.progress->Advance(layer + 1);
  }
  return reports;
}

}  // namespace pennyweight
