#include "calib/layer_walk.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "calib/hidden_checkpoint.h"
#include "calib/hidden_error.h"
#include "calib/ops.h"
#include "quant/codec.h"

namespace pennyweight {
namespace {

int64_t HeldOutTokens(const Windows& windows) {
  int64_t n = 0;
  for (size_t i = 0; i < windows.lengths.size(); ++i) {
    if (IsHeldOut(static_cast<int64_t>(i))) n += windows.lengths[i];
  }
  return n;
}

// gptq makes up for what the quantized layers before a matrix changed: that takes the original
// model's activations on all tokens, beside those of the quantized one.
bool Corrects(Method method) { return method == Method::kGptq || method == Method::kAuto; }

// Largest group of whole windows that is run at once.
int64_t ChunkTokens(const Windows& windows) {
  int64_t longest = LayerWalk::kChunkTokens;
  for (const int64_t n : windows.lengths) longest = std::max(longest, n);
  return longest;
}

}  // namespace

uint64_t LayerWalk::HiddenBytes(const WalkInput& input) {
  const int64_t all = input.windows->tokens(), heldout = HeldOutTokens(*input.windows);
  const int64_t rows = all + (Corrects(input.method) ? all : heldout) + heldout;
  return static_cast<uint64_t>(rows * input.model->config->hidden_size) * sizeof(float);
}

uint64_t LayerWalk::WorkingBytes(const WalkInput& input) {
  const ModelConfig& c = *input.model->config;
  const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  const int64_t layer = 2 * c.hidden_size * (q + kv) + 3 * c.hidden_size * c.intermediate_size;
  const int64_t widest = std::max({c.hidden_size, c.intermediate_size, q});
  const int64_t heldout = std::min(InputStatistics::kHeldOutRows, HeldOutTokens(*input.windows));
  const int64_t chunk = ChunkTokens(*input.windows);
  const int64_t activations =
      chunk * (4 * c.hidden_size + 2 * q + 2 * kv + 3 * c.intermediate_size + widest);
  int64_t tile = 0;
  for (const TensorInfo& t : input.model->source->tensors()) {
    tile = std::max(tile, std::min(t.rows(), TileRows(t.cols())) * t.cols());
  }
  // In floats: a layer's original weights (as stored, often half of this), the decoded ones and two
  // encodings; a Hessian; held-out rows; a chunk's activations; the tiles of a matrix and what
  // they make of the held-out rows. Then the program and its packing.
  int64_t floats = 2 * layer + layer / 2 + widest * widest + 2 * heldout * widest + activations +
                   6 * tile + 2 * heldout * std::min(widest, TileRows(widest));
  if (Corrects(input.method)) floats += widest * widest + chunk * widest;
  return static_cast<uint64_t>(floats) * sizeof(float) + (48ull << 20);
}

Result<std::unique_ptr<LayerWalk>> LayerWalk::Create(const Context& context, const WalkInput& input,
                                                     const std::string& scratch_dir) {
  if (HasExperts(*input.model->family)) {
    return Error(ErrorCode::kUnsupported, "models with experts are not calibrated")
        .Hint("use --method rtn without --calib");
  }
  const uint64_t working = WorkingBytes(input);
  if (working > context.memory_limit) {
    return Error(ErrorCode::kMemory,
                 fmt::format("calibrating one layer needs about {} MB, the limit is {} MB",
                             working / 1000000 + 1, context.memory_limit / 1000000))
        .Hint(fmt::format("use --memory {}M or more, or --method rtn without --calib",
                          working / 1000000 + 1));
  }
  const bool spill = working + HiddenBytes(input) > context.memory_limit;
  const std::string dir = spill ? scratch_dir : std::string();
  const int64_t width = input.model->config->hidden_size;
  const int64_t all = input.windows->tokens(), heldout = HeldOutTokens(*input.windows);
  PW_ASSIGN(HiddenStore quantized, HiddenStore::Create(all, width, dir));
  PW_ASSIGN(HiddenStore original,
            HiddenStore::Create(Corrects(input.method) ? all : heldout, width, dir));
  PW_ASSIGN(HiddenStore rtn, HiddenStore::Create(heldout, width, dir));
  return std::unique_ptr<LayerWalk>(
      new LayerWalk(input, std::move(quantized), std::move(original), std::move(rtn)));
}

LayerWalk::LayerWalk(const WalkInput& input, HiddenStore quantized, HiddenStore original,
                     HiddenStore rtn)
    : in_(input),
      family_(*input.model->family),
      config_(*input.model->config),
      runner_(family_, config_),
      quantized_{std::move(quantized), 0},
      original_{std::move(original), 0},
      rtn_{std::move(rtn), 0} {
  runner_.UsePrecision(Precision::kBf16);
  OrderWindows();
  rtn_.offset = calibration_tokens_;
  original_.offset = Corrects(in_.method) ? 0 : calibration_tokens_;
}

void LayerWalk::OrderWindows() {
  const Windows& windows = *in_.windows;
  std::vector<int64_t> begins(windows.lengths.size());
  std::exclusive_scan(windows.lengths.begin(), windows.lengths.end(), begins.begin(), int64_t{0});
  std::vector<bool> heldout;
  for (const bool want : {false, true}) {
    for (size_t i = 0; i < windows.lengths.size(); ++i) {
      if (IsHeldOut(static_cast<int64_t>(i)) != want) continue;
      const auto begin = windows.ids.begin() + begins[i];
      ids_.insert(ids_.end(), begin, begin + windows.lengths[i]);
      lengths_.push_back(windows.lengths[i]);
      heldout.push_back(want);
      if (!want) calibration_tokens_ += windows.lengths[i];
    }
  }
  int64_t token = 0;
  for (size_t i = 0; i < lengths_.size();) {
    Chunk chunk;
    chunk.token = token;
    chunk.heldout = heldout[i];
    const size_t first = i;
    do {
      chunk.tokens += lengths_[i];
      ++i;
    } while (i < lengths_.size() && heldout[i] == chunk.heldout &&
             chunk.tokens + lengths_[i] <= kChunkTokens);
    chunk.windows = std::span(lengths_).subspan(first, i - first);
    token += chunk.tokens;
    chunks_.push_back(chunk);
  }
}

std::vector<LayerWalk::Stage> LayerWalk::Stages() const {
  std::vector<Stage> stages;
  for (size_t i = 0; i < family_.layer.size(); ++i) {
    const Step& step = family_.layer[i];
    if (step.kind != StepKind::kLinear) continue;
    const bool same = !stages.empty() && stages.back().linears.back() == &step - 1 &&
                      stages.back().linears.back()->in == step.in;
    if (!same) stages.push_back({i, {}});
    stages.back().linears.push_back(&step);
  }
  return stages;
}

int64_t LayerWalk::IndexOf(std::string_view pattern, int64_t layer) const {
  return in_.model->source->Find(NameFor(pattern, layer));
}

Status LayerWalk::StreamOne(const Context& context, size_t index, const RowsCallback& on_rows) {
  StreamJob job;
  job.source = in_.model->source.get();
  job.choices = in_.choices;
  job.method = in_.method;
  job.effort = in_.effort;
  job.sink = in_.sink;
  job.reports = in_.reports;
  job.sums = in_.sums;
  return StreamTensors(WithinCalibration(context), job, std::span(&index, 1), on_rows);
}

Status LayerWalk::Embed(const Context& context) {
  const int64_t index = in_.model->source->Find(family_.embedding);
  if (index < 0) {
    return Error(ErrorCode::kTensorMissing, "the model has no embedding")
        .InTensor(std::string(family_.embedding));
  }
  // Positions by id, so that each decoded tile finds its tokens.
  std::vector<std::pair<int32_t, int64_t>> by_id;
  by_id.reserve(ids_.size());
  for (size_t i = 0; i < ids_.size(); ++i) by_id.emplace_back(ids_[i], static_cast<int64_t>(i));
  std::sort(by_id.begin(), by_id.end());
  const int64_t width = config_.hidden_size;
  const auto scatter = [&](int64_t row, int64_t rows, const float* decoded) -> Status {
    auto it = std::lower_bound(by_id.begin(), by_id.end(),
                               std::pair<int32_t, int64_t>(static_cast<int32_t>(row), 0));
    for (; it != by_id.end() && it->first < row + rows; ++it) {
      const float* values = decoded + (it->first - row) * width;
      PW_TRY(quantized_.hidden.Write(it->second, 1, values));
      const int64_t heldout = it->second - calibration_tokens_;
      if (heldout >= 0) PW_TRY(rtn_.hidden.Write(heldout, 1, values));
    }
    return OkStatus();
  };
  const size_t i = static_cast<size_t>(index);
  PW_TRY(StreamOne(context, i, scatter));
  (*in_.done)[i] = 1;
  for (const Chunk& chunk : chunks_) {
    if (!Holds(original_, chunk)) continue;
    hidden_.resize(static_cast<size_t>(chunk.tokens * width));
    PW_TRY(EmbedTokens(*in_.model->source, family_, config_,
                       std::span(ids_).subspan(static_cast<size_t>(chunk.token),
                                               static_cast<size_t>(chunk.tokens)),
                       hidden_.data()));
    PW_TRY(original_.hidden.Write(chunk.token - original_.offset, chunk.tokens, hidden_.data()));
  }
  return OkStatus();
}

Status LayerWalk::RunToStage(const Context& context, const LayerWeights& weights,
                             const Chunk& chunk, size_t checkpoint, size_t advance,
                             const Stage& stage, Stream* stream) {
  hidden_.resize(static_cast<size_t>(chunk.tokens * config_.hidden_size));
  PW_TRY(stream->hidden.Read(chunk.token - stream->offset, chunk.tokens, hidden_.data()));
  if (advance > checkpoint) {
    runner_.Run(context, weights, chunk.windows, checkpoint, advance, hidden_.data());
    PW_TRY(stream->hidden.Write(chunk.token - stream->offset, chunk.tokens, hidden_.data()));
  }
  runner_.Run(context, weights, chunk.windows, advance, stage.first_step, hidden_.data());
  return OkStatus();
}

// One chunk of both models at a time, so that their inputs meet.
Status LayerWalk::Accumulate(const Context& context, const LayerWeights& weights,
                             const LayerWeights& original, size_t checkpoint, size_t advance,
                             const Stage& stage, InputStatistics* statistics) {
  const Slot input = stage.linears.front()->in;
  for (const Chunk& chunk : chunks_) {
    if (context.Cancelled()) return Error(ErrorCode::kInterrupted, "interrupted");
    if (Holds(original_, chunk)) {
      PW_TRY(RunToStage(context, original, chunk, checkpoint, advance, stage, &original_));
      const float* x0 = runner_.slot(input);
      original_input_.assign(x0, x0 + chunk.tokens * runner_.width(input));
    }
    PW_TRY(RunToStage(context, weights, chunk, checkpoint, advance, stage, &quantized_));
    const float* x = runner_.slot(input);
    if (chunk.heldout) {
      statistics->AddHeldOut(x, original_input_.data(), chunk.tokens);
    } else {
      statistics->Add(context, x, original_input_.data(), chunk.tokens);
    }
  }
  return OkStatus();
}

// Damping is doubled, and the activations are run again, until the Hessian can be factored.
Result<bool> LayerWalk::Factor(const Context& context,
                               const std::function<Status(InputStatistics*)>& add,
                               InputStatistics* statistics) {
  for (double damp = kDamp;; damp = std::min(2 * damp, kMaxDamp)) {
    PW_TRY(add(statistics));
    PW_ASSIGN(const bool ok, statistics->Factor(context, damp));
    if (ok) return true;
    if (damp >= kMaxDamp) {
      // Without the factor the second moments still weigh the scale search.
      PW_TRY(add(statistics));
      return false;
    }
  }
}

Status LayerWalk::QuantizeLinear(const Context& context, size_t index,
                                 const InputStatistics& statistics, bool factored,
                                 std::vector<float>* decoded, EncodedMatrix* rtn) {
  TensorReport& report = (*in_.reports)[index];
  const Choice& choice = in_.choices[index];
  const TensorInfo& info = in_.model->source->tensors()[index];
  decoded->resize(static_cast<size_t>(info.elements()));
  (*in_.done)[index] = 1;
  if (!choice.quantize) {
    const auto keep = [&](int64_t row, int64_t rows, const float* values) -> Status {
      std::copy_n(values, rows * info.cols(), decoded->begin() + row * info.cols());
      return OkStatus();
    };
    return StreamOne(context, index, keep);
  }
  MatrixJob job;
  job.source = in_.model->source.get();
  job.index = index;
  job.choice = &choice;
  job.method = in_.method;
  job.effort = in_.effort;
  job.statistics = &statistics;
  job.factored = factored;
  PW_ASSIGN(MatrixResult result, QuantizeMatrix(context, job, in_.sink, &report, in_.sums));
  result.chosen.Decode(decoded->data());
  *rtn = std::move(result.rtn);
  return OkStatus();
}

Status LayerWalk::QuantizeStage(const Context& context, int64_t layer, const Stage& stage,
                                const InputStatistics& statistics, bool factored,
                                LayerWeights* weights,
                                std::map<std::string_view, EncodedMatrix>* rtn) {
  for (const Step* step : stage.linears) {
    PW_ASSIGN(Weight weight, LoadWeight(*in_.model->source, family_, config_, step->weight, layer));
    std::vector<float> decoded;
    EncodedMatrix baseline;
    PW_TRY(QuantizeLinear(context, static_cast<size_t>(IndexOf(step->weight, layer)), statistics,
                          factored, &decoded, &baseline));
    weight.dtype = DType::kF32;
    weight.data.resize(decoded.size() * sizeof(float));
    std::copy_n(reinterpret_cast<const uint8_t*>(decoded.data()), weight.data.size(),
                weight.data.begin());
    (*weights)[{step->weight}] = std::move(weight);
    if (!baseline.tiles.empty()) (*rtn)[step->weight] = std::move(baseline);
  }
  return OkStatus();
}

Status LayerWalk::Finish(const Context& context, const LayerWeights& weights, size_t checkpoint,
                         Stream* stream) {
  for (const Chunk& chunk : chunks_) {
    if (!Holds(*stream, chunk)) continue;
    if (context.Cancelled()) return Error(ErrorCode::kInterrupted, "interrupted");
    const int64_t at = chunk.token - stream->offset;
    hidden_.resize(static_cast<size_t>(chunk.tokens * config_.hidden_size));
    PW_TRY(stream->hidden.Read(at, chunk.tokens, hidden_.data()));
    runner_.Run(context, weights, chunk.windows, checkpoint, family_.layer.size(), hidden_.data());
    PW_TRY(stream->hidden.Write(at, chunk.tokens, hidden_.data()));
  }
  return OkStatus();
}

Status LayerWalk::MeasureLayer(LayerReport* report) {
  HiddenError quantized, rtn;
  std::vector<float> want, got;
  for (const Chunk& chunk : chunks_) {
    if (!chunk.heldout) continue;
    want.resize(static_cast<size_t>(chunk.tokens * config_.hidden_size));
    got.resize(want.size());
    PW_TRY(original_.hidden.Read(chunk.token - original_.offset, chunk.tokens, want.data()));
    PW_TRY(quantized_.hidden.Read(chunk.token, chunk.tokens, got.data()));
    quantized.Add(want, got);
    PW_TRY(rtn_.hidden.Read(chunk.token - rtn_.offset, chunk.tokens, got.data()));
    rtn.Add(want, got);
  }
  if (quantized.count() == 0) return OkStatus();
  report->hidden_rel_error = quantized.RelError();
  report->hidden_cosine = quantized.Cosine();
  report->hidden_rel_error_rtn = rtn.RelError();
  return OkStatus();
}

Result<LayerReport> LayerWalk::Layer(const Context& context, int64_t layer) {
  PW_ASSIGN(LayerWeights original, LoadLayer(*in_.model->source, family_, config_, layer));
  LayerWeights weights;
  for (const Step& step : family_.layer) {
    if (step.kind != StepKind::kRmsNorm) continue;
    PW_ASSIGN(weights[{step.weight}],
              LoadWeight(*in_.model->source, family_, config_, step.weight, layer));
  }
  std::map<std::string_view, EncodedMatrix> rtn;
  const int64_t heldout_tokens = in_.windows->tokens() - calibration_tokens_;
  size_t checkpoint = 0;
  for (const Stage& stage : Stages()) {
    // Behind an addition only the hidden states are alive: the walk can go on from there.
    size_t advance = checkpoint;
    for (size_t i = checkpoint; i < stage.first_step; ++i) {
      if (family_.layer[i].kind == StepKind::kAdd) advance = i + 1;
    }
    const int64_t first = IndexOf(stage.linears.front()->weight, layer);
    if (first < 0) {
      return Error(ErrorCode::kTensorMissing, "the family needs this tensor")
          .InTensor(NameFor(stage.linears.front()->weight, layer));
    }
    InputStatistics statistics(in_.model->source->tensors()[static_cast<size_t>(first)].cols(),
                               heldout_tokens, Corrects(in_.method));
    const auto add = [&](InputStatistics* to) -> Status {
      PW_TRY(Accumulate(context, weights, original, checkpoint, advance, stage, to));
      checkpoint = advance;
      return OkStatus();
    };
    PW_ASSIGN(const bool factored, Factor(context, add, &statistics));
    PW_TRY(QuantizeStage(context, layer, stage, statistics, factored, &weights, &rtn));
  }
  PW_TRY(Finish(context, weights, checkpoint, &quantized_));
  PW_TRY(Finish(context, original, checkpoint, &original_));
  original.clear();

  for (auto& [pattern, matrix] : rtn) {
    Weight& weight = weights[{pattern}];
    matrix.Decode(reinterpret_cast<float*>(weight.data.data()));
    matrix.tiles.clear();
  }
  PW_TRY(Finish(context, weights, 0, &rtn_));
  LayerReport report;
  report.layer = layer;
  PW_TRY(MeasureLayer(&report));
  return report;
}

Status LayerWalk::HeadInput(const Chunk& chunk, const std::vector<float>& gain,
                            const Stream& stream, std::vector<float>* normed) {
  const int64_t width = config_.hidden_size;
  normed->resize(static_cast<size_t>(chunk.tokens * width));
  PW_TRY(stream.hidden.Read(chunk.token - stream.offset, chunk.tokens, normed->data()));
  for (int64_t t = 0; t < chunk.tokens; ++t) {
    float* row = normed->data() + t * width;
    RmsNormRow(row, gain.data(), width, config_.rms_norm_eps, row);
  }
  return OkStatus();
}

Status LayerWalk::Head(const Context& context) {
  const int64_t index = in_.model->source->Find(family_.head);
  if (index < 0 || !in_.choices[static_cast<size_t>(index)].quantize) return OkStatus();
  PW_ASSIGN(const Weight norm,
            LoadWeight(*in_.model->source, family_, config_, family_.final_norm, -1));
  const int64_t width = config_.hidden_size;
  std::vector<float> gain(static_cast<size_t>(width));
  DecodeToFloat(norm.dtype, norm.data.data(), gain.data(), gain.size());
  InputStatistics statistics(width, in_.windows->tokens() - calibration_tokens_,
                             Corrects(in_.method));
  std::vector<float> x;
  const auto add = [&](InputStatistics* to) -> Status {
    for (const Chunk& chunk : chunks_) {
      if (context.Cancelled()) return Error(ErrorCode::kInterrupted, "interrupted");
      PW_TRY(HeadInput(chunk, gain, quantized_, &x));
      if (Holds(original_, chunk)) PW_TRY(HeadInput(chunk, gain, original_, &original_input_));
      if (chunk.heldout) {
        to->AddHeldOut(x.data(), original_input_.data(), chunk.tokens);
      } else {
        to->Add(context, x.data(), original_input_.data(), chunk.tokens);
      }
    }
    return OkStatus();
  };
  PW_ASSIGN(const bool factored, Factor(context, add, &statistics));
  MatrixJob job;
  job.source = in_.model->source.get();
  job.index = static_cast<size_t>(index);
  job.choice = &in_.choices[job.index];
  job.method = in_.method;
  job.effort = in_.effort;
  job.statistics = &statistics;
  job.factored = factored;
  (*in_.done)[job.index] = 1;
  PW_TRY(QuantizeMatrix(context, job, in_.sink, &(*in_.reports)[job.index], in_.sums));
  return OkStatus();
}

Status LayerWalk::SaveStreams(const std::string& path, int64_t layer) const {
  const HiddenStore* const stores[] = {&quantized_.hidden, &original_.hidden, &rtn_.hidden};
  return SaveHidden(path, layer, stores);
}

Result<bool> LayerWalk::LoadStreams(const std::string& path, int64_t layer) {
  HiddenStore* const stores[] = {&quantized_.hidden, &original_.hidden, &rtn_.hidden};
  return LoadHidden(path, layer, stores);
}

}  // namespace pennyweight
