#include "calib/run_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "calib/ops.h"
#include "lib/checked.h"
#include "lib/linalg.h"
#include "lib/parallel.h"

namespace pennyweight {
namespace {

constexpr uint64_t kOverheadBytes = 48ull << 20;  // the program, packed panels, a tile of logits

std::string FamilyNames() {
  std::string names;
  for (const Family& family : Families()) {
    if (!names.empty()) names += ", ";
    names += family.name;
  }
  return names;
}

// The pattern of the matrix that makes logits.
std::string_view HeadPattern(const RunnableModel& model) {
  const bool has_head = model.source->Find(model.family->head) >= 0;
  return has_head ? model.family->head : model.family->embedding;
}

Status Interrupted() { return Error(ErrorCode::kInterrupted, "interrupted"); }

void BeginPhase(const Context& context, std::string_view name, int64_t total) {
  if (context.progress != nullptr) context.progress->Phase(name, total);
}

void Advance(const Context& context, int64_t done) {
  if (context.progress != nullptr) context.progress->Advance(done);
}

Status EmbedAll(const Context& context, const RunnableModel& model, const Windows& windows,
                std::span<const WindowChunk> chunks, HiddenStore* store) {
  std::vector<float> hidden;
  for (const WindowChunk& chunk : chunks) {
    if (context.Cancelled()) return Interrupted();
    hidden.resize(static_cast<size_t>(chunk.tokens * store->width()));
    const auto ids =
        std::span(windows.ids)
            .subspan(static_cast<size_t>(chunk.token), static_cast<size_t>(chunk.tokens));
    PW_TRY(EmbedTokens(*model.source, *model.family, *model.config, ids, hidden.data()));
    PW_TRY(store->Write(chunk.token, chunk.tokens, hidden.data()));
  }
  return OkStatus();
}

Status RunLayer(const Context& context, const RunnableModel& model, int64_t layer,
                std::span<const WindowChunk> chunks, LayerRunner* runner, HiddenStore* store) {
  PW_ASSIGN(const LayerWeights weights,
            LoadLayer(*model.source, *model.family, *model.config, layer));
  std::vector<float> hidden;
  for (const WindowChunk& chunk : chunks) {
    if (context.Cancelled()) return Interrupted();
    hidden.resize(static_cast<size_t>(chunk.tokens * store->width()));
    PW_TRY(store->Read(chunk.token, chunk.tokens, hidden.data()));
    runner->Run(context, weights, chunk.windows, 0, model.family->layer.size(), hidden.data());
    PW_TRY(store->Write(chunk.token, chunk.tokens, hidden.data()));
    Advance(context, chunk.token + chunk.tokens);
  }
  return OkStatus();
}

// Keeps the rows that are scored, normed. Positions ascend.
Status GatherNormed(const Context& context, const RunnableModel& model,
                    std::span<const int64_t> positions, const HiddenStore& all,
                    HiddenStore* scored) {
  std::vector<float> hidden;
  const auto count = static_cast<int64_t>(positions.size());
  for (int64_t first = 0; first < count;) {
    // A run of neighbouring positions, of at most a chunk.
    const int64_t position = positions[static_cast<size_t>(first)];
    int64_t rows = 1;
    while (first + rows < count && rows < kChunkTokens &&
           positions[static_cast<size_t>(first + rows)] == position + rows) {
      ++rows;
    }
    hidden.resize(static_cast<size_t>(rows * all.width()));
    PW_TRY(all.Read(position, rows, hidden.data()));
    PW_TRY(FinalNorm(context, model, rows, hidden.data()));
    PW_TRY(scored->Write(first, rows, hidden.data()));
    first += rows;
  }
  return OkStatus();
}

}  // namespace

Result<RunnableModel> MakeRunnable(const Model& model) {
  if (!model.config) {
    if (model.config_error) return Error(*model.config_error);
    return Error(ErrorCode::kUnknownFamily, "the file has no model configuration to run it by")
        .Hint(fmt::format("name the folder with config.json, or a GGUF file; families that can be "
                          "run: {}",
                          FamilyNames()))
        .InFile(model.path);
  }
  if (model.family == nullptr) {
    return Error(ErrorCode::kUnknownFamily,
                 fmt::format("the family of architecture \"{}\" is not known",
                             model.config->architecture))
        .Hint(fmt::format("families that can be run: {}", FamilyNames()))
        .InFile(model.path);
  }
  PW_TRY(CheckRunnable(*model.config));
  RunnableModel runnable{model.source.get(), model.family, &*model.config};
  if (!model.config->tie_embeddings && model.source->Find(model.family->head) < 0) {
    return Error(ErrorCode::kTensorMissing,
                 "the model has no head, and does not say that the embedding serves as one")
        .Hint("\"tie_word_embeddings\": true in config.json, if it does")
        .InFile(model.path)
        .InTensor(std::string(model.family->head));
  }
  return runnable;
}

std::vector<WindowChunk> CutChunks(std::span<const int64_t> lengths) {
  std::vector<WindowChunk> chunks;
  int64_t token = 0;
  for (size_t i = 0; i < lengths.size();) {
    WindowChunk chunk;
    chunk.token = token;
    const size_t first = i;
    do {
      chunk.tokens += lengths[i++];
    } while (i < lengths.size() && chunk.tokens + lengths[i] <= kChunkTokens);
    chunk.windows = lengths.subspan(first, i - first);
    token += chunk.tokens;
    chunks.push_back(chunk);
  }
  return chunks;
}

uint64_t RunBytes(const RunnableModel& model, std::span<const int64_t> lengths) {
  const ModelConfig& c = *model.config;
  uint64_t layer = 0;
  for (const Step& step : model.family->layer) {
    if (step.weight.empty()) continue;
    const bool experts = step.kind == StepKind::kExpertLinear;
    const int64_t index = model.source->Find(NameFor(step.weight, 0, 0));
    if (index < 0) continue;
    const TensorInfo& info = model.source->tensors()[static_cast<size_t>(index)];
    const bool half = info.encoding == Encoding::Plain(DType::kF16) ||
                      info.encoding == Encoding::Plain(DType::kBF16);
    const auto count = static_cast<uint64_t>(experts ? c.experts : 1);
    layer += count * static_cast<uint64_t>(info.elements()) * (half ? 2 : sizeof(float));
  }
  int64_t chunk = 0, longest = 0;
  for (const WindowChunk& each : CutChunks(lengths)) chunk = std::max(chunk, each.tokens);
  for (const int64_t length : lengths) longest = std::max(longest, length);
  const int64_t q = c.heads * c.head_dim;
  const int64_t kv = c.kv_heads * c.head_dim;
  int64_t row = 3 * c.hidden_size + 2 * q + 2 * kv;
  if (c.experts > 0) {
    row += c.experts + c.experts_per_token * (2 * c.hidden_size + 3 * c.intermediate_size);
  } else {
    row += 3 * c.intermediate_size;
  }
  const int64_t positions = longest * (c.head_dim + ThreadLimit::Active() * kQueryBlock);
  return layer + static_cast<uint64_t>(chunk * row + positions) * sizeof(float) + kOverheadBytes;
}

std::vector<int64_t> ScoredPositions(const Windows& windows) {
  std::vector<int64_t> positions;
  int64_t start = 0;
  for (size_t w = 0; w < windows.lengths.size(); ++w) {
    for (int64_t p = std::max<int64_t>(windows.first_scored[w], 1); p < windows.lengths[w]; ++p) {
      positions.push_back(start + p - 1);
    }
    start += windows.lengths[w];
  }
  return positions;
}

Status FinalNorm(const Context& context, const RunnableModel& model, int64_t tokens,
                 float* hidden) {
  PW_ASSIGN(const Weight norm,
            LoadWeight(*model.source, *model.family, *model.config, model.family->final_norm, -1));
  const int64_t width = model.config->hidden_size;
  std::vector<float> gain(static_cast<size_t>(width));
  DecodeToFloat(norm.dtype, norm.data.data(), gain.data(), gain.size());
  constexpr int64_t kRows = 64;
  ParallelFor(context, CeilDiv(tokens, kRows), [&](int64_t block) {
    for (int64_t t = block * kRows; t < std::min(tokens, (block + 1) * kRows); ++t) {
      float* row = hidden + t * width;
      RmsNormRow(row, gain.data(), width, model.config->rms_norm_eps, row);
    }
  });
  return OkStatus();
}

Result<HiddenStore> RunModel(const Context& context, const RunnableModel& model,
                             const Windows& windows, const std::string& scratch_dir,
                             std::string_view who) {
  const uint64_t working = RunBytes(model, windows.lengths);
  if (working > context.memory_limit) {
    const uint64_t megabytes = working / 1000000 + 1;
    return Error(ErrorCode::kMemory,
                 fmt::format("running one layer needs about {} MB, the limit is {} MB", megabytes,
                             context.memory_limit / 1000000))
        .Hint(fmt::format("--memory {}M", megabytes));
  }
  const int64_t width = model.config->hidden_size;
  const std::vector<int64_t> positions = ScoredPositions(windows);
  const auto scored_tokens = static_cast<int64_t>(positions.size());
  // All tokens' states, and those of the scored ones of two models.
  const uint64_t states =
      static_cast<uint64_t>((windows.tokens() + 2 * scored_tokens) * width) * sizeof(float);
  const std::string dir = states > context.memory_limit - working ? scratch_dir : std::string();
  const std::vector<WindowChunk> chunks = CutChunks(windows.lengths);
  PW_ASSIGN(HiddenStore all, HiddenStore::Create(windows.tokens(), width, dir));
  PW_TRY(EmbedAll(context, model, windows, chunks, &all));
  LayerRunner runner(*model.family, *model.config);
  for (int64_t layer = 0; layer < model.config->layers; ++layer) {
    BeginPhase(context, fmt::format("{}layer {} of {}", who, layer + 1, model.config->layers),
               windows.tokens());
    PW_TRY(RunLayer(context, model, layer, chunks, &runner, &all));
  }
  PW_ASSIGN(HiddenStore scored, HiddenStore::Create(scored_tokens, width, dir));
  PW_TRY(GatherNormed(context, model, positions, all, &scored));
  return scored;
}

Result<Weight> LoadHeadRows(const RunnableModel& model, int64_t row, int64_t count) {
  return LoadWeightRows(*model.source, *model.family, *model.config, HeadPattern(model), -1, row,
                        count);
}

void MultiplyHead(const Context& context, const Weight& head, const float* normed, int64_t tokens,
                  float* logits) {
  Gemm(context, {.m = tokens,
                 .n = head.rows,
                 .k = head.cols,
                 .a = normed,
                 .a_stride = head.cols,
                 .b = head.data.data(),
                 .b_dtype = head.dtype,
                 .b_stride = head.cols,
                 .c = logits,
                 .c_stride = head.rows,
                 .accumulate = false});
}

}  // namespace pennyweight
