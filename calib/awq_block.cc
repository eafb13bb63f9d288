#include "calib/awq_block.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "calib/hidden_error.h"
#include "calib/matrix_job.h"

namespace pennyweight {
namespace {

// Columns of a quantized row that share scales: runs of channels are kept in such multiples.
constexpr int64_t kRun = 256;
// As the calibrated walk: a channel that was not seen still counts a little.
constexpr double kImportanceDamp = 0.01;

bool IsLinear(const Step& step) {
  return step.kind == StepKind::kLinear || step.kind == StepKind::kExpertLinear;
}

// About `wanted` of `total` indices in runs of `run`, evenly spread; empty: all of them.
std::vector<int64_t> SpreadRuns(int64_t total, int64_t run, int64_t wanted) {
  std::vector<int64_t> kept;
  const int64_t runs = total / run;
  const int64_t count = std::max<int64_t>(1, wanted / run);
  if (wanted >= total || count >= runs) return kept;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = i * runs / count * run;
    for (int64_t j = 0; j < run; ++j) kept.push_back(first + j);
  }
  return kept;
}

// Puts other weights in the place of a layer's while it lives.
class SwappedWeights {
 public:
  explicit SwappedWeights(LayerWeights* weights) : weights_(weights) {}
  ~SwappedWeights() {
    for (auto& [key, weight] : saved_) weights_->at(key) = std::move(weight);
  }
  SwappedWeights(const SwappedWeights&) = delete;
  SwappedWeights& operator=(const SwappedWeights&) = delete;
  void Put(const WeightKey& key, Weight weight) {
    Weight& place = weights_->at(key);
    saved_[key] = std::exchange(place, std::move(weight));
  }

 private:
  LayerWeights* weights_;
  LayerWeights saved_;
};

std::vector<float> Pick(const std::vector<float>& from, const std::vector<int64_t>* kept) {
  if (from.empty() || kept == nullptr) return from;
  std::vector<float> out;
  out.reserve(kept->size());
  for (const int64_t i : *kept) out.push_back(from[static_cast<size_t>(i)]);
  return out;
}

// Importance of each column in folded numbers: E[x^2] / s^2, damped.
std::vector<float> Importance(const std::vector<double>& square, const std::vector<float>& scale,
                              const std::vector<int64_t>* kept, size_t cols) {
  std::vector<float> out(cols, 1.0f);
  if (square.empty()) return out;
  double mean = 0;
  for (size_t c = 0; c < cols; ++c) {
    const double s = scale.empty() ? 1 : static_cast<double>(scale[c]);
    const size_t channel = kept == nullptr ? c : static_cast<size_t>((*kept)[c]);
    const double v = square[channel] / (s * s);
    out[c] = static_cast<float>(v);
    mean += v;
  }
  const auto damp = static_cast<float>(kImportanceDamp * mean / static_cast<double>(cols));
  for (float& v : out) v += damp;
  return out;
}

}  // namespace

AwqBlock::AwqBlock(const AwqInput& input, const FoldPoint& point)
    : in_(input),
      begin_(point.begin),
      end_(point.end),
      output_slot_(input.family->layer[point.end].in),
      config_(*input.config),
      runner_(*input.family, config_) {}

std::unique_ptr<AwqBlock> AwqBlock::Whole(const AwqInput& input, const FoldPoint& point) {
  std::unique_ptr<AwqBlock> block(new AwqBlock(input, point));
  block->TakeAll();
  return block;
}

std::unique_ptr<AwqBlock> AwqBlock::Narrow(const AwqInput& input, const FoldPoint& point) {
  std::unique_ptr<AwqBlock> block(new AwqBlock(input, point));
  ModelConfig& config = block->config_;
  const int64_t repeat = config.heads / config.kv_heads;
  const int64_t unit = repeat * config.head_dim;  // columns of o that one head of v stands behind
  int64_t run = 1;
  while (run * unit % kRun != 0 && run < config.kv_heads) ++run;
  for (const int64_t head : SpreadRuns(config.kv_heads, run, kSearchHeads / unit)) {
    for (int64_t i = 0; i < config.head_dim; ++i) {
      block->kv_kept_.push_back(head * config.head_dim + i);
    }
    for (int64_t i = 0; i < unit; ++i) block->q_kept_.push_back(head * unit + i);
  }
  const int64_t experts = std::max<int64_t>(1, config.experts);
  block->channels_kept_ = SpreadRuns(config.intermediate_size, kRun, kSearchChannels / experts);
  if (!block->q_kept_.empty()) {
    config.kv_heads = static_cast<int64_t>(block->kv_kept_.size()) / config.head_dim;
    config.heads = config.kv_heads * repeat;
  }
  if (!block->channels_kept_.empty()) {
    config.intermediate_size = static_cast<int64_t>(block->channels_kept_.size());
  }
  block->TakeAll();
  return block;
}

void AwqBlock::TakeAll() {
  for (size_t i = begin_; i < end_; ++i) {
    const Step& step = in_.family->layer[i];
    if (step.weight.empty()) continue;
    for (const auto& [key, weight] : *in_.weights) {
      if (key.pattern == step.weight) Take(key, step);
    }
  }
}

// Copies the kept rows and columns of a weight.
void AwqBlock::Take(const WeightKey& key, const Step& step) {
  const Weight& from = in_.weights->at(key);
  const std::vector<int64_t>* rows = Kept(step.out);
  const std::vector<int64_t>* cols = Kept(step.in);
  if (!IsLinear(step) || (rows == nullptr && cols == nullptr)) {
    weights_[key] = from;
    return;
  }
  Weight& to = weights_[key];
  to.dtype = from.dtype;
  to.rows = rows == nullptr ? from.rows : static_cast<int64_t>(rows->size());
  to.cols = cols == nullptr ? from.cols : static_cast<int64_t>(cols->size());
  to.bias = Pick(from.bias, rows);
  const auto bytes = static_cast<size_t>(DTypeBits(from.dtype) / 8);
  to.data.resize(static_cast<size_t>(to.rows * to.cols) * bytes);
  uint8_t* out = to.data.data();
  for (int64_t r = 0; r < to.rows; ++r) {
    const int64_t row = rows == nullptr ? r : (*rows)[static_cast<size_t>(r)];
    const uint8_t* line = from.data.data() + static_cast<size_t>(row * from.cols) * bytes;
    for (int64_t c = 0; c < to.cols; ++c, out += bytes) {
      const int64_t col = cols == nullptr ? c : (*cols)[static_cast<size_t>(c)];
      std::memcpy(out, line + static_cast<size_t>(col) * bytes, bytes);
    }
  }
}

const std::vector<int64_t>* AwqBlock::Kept(Slot slot) const {
  const std::vector<int64_t>* kept = nullptr;
  switch (slot) {
    case Slot::kQ:
    case Slot::kAttn:
      kept = &q_kept_;
      break;
    case Slot::kK:
    case Slot::kV:
      kept = &kv_kept_;
      break;
    case Slot::kGate:
    case Slot::kUp:
    case Slot::kGated:
    case Slot::kExpertGate:
    case Slot::kExpertUp:
    case Slot::kExpertGated:
      kept = &channels_kept_;
      break;
    default:
      break;
  }
  return kept == nullptr || kept->empty() ? nullptr : kept;
}

void AwqBlock::Watch(const Context& context, AwqStream* stream) {
  stream_ = stream;
  runner_.Run(context, weights_, stream->windows, begin_, end_, stream->hidden.data());
  const float* y = runner_.slot(output_slot_);
  output_.assign(y, y + stream->tokens * runner_.width(output_slot_));
}

Result<BlockInputs> AwqBlock::Inputs() const {
  BlockInputs inputs;
  for (size_t i = begin_; i < end_; ++i) {
    const Step& step = in_.family->layer[i];
    if (!IsLinear(step)) continue;
    const bool experts = step.kind == StepKind::kExpertLinear;
    const auto width = static_cast<size_t>(runner_.width(step.in));
    const float* x = runner_.slot(step.in);
    for (int64_t e = experts ? 0 : -1; e < (experts ? config_.experts : 0); ++e) {
      const auto [place, fresh] = inputs.try_emplace({step.in, e});
      if (!fresh) continue;
      const auto expert = static_cast<size_t>(e);
      const int64_t first = experts ? runner_.routing().begin[expert] : 0;
      const int64_t last = experts ? runner_.routing().begin[expert + 1] : stream_->tokens;
      InputMoments& moments = place->second;
      moments.rows = last - first;
      moments.mean.assign(width, 0);
      moments.square.assign(width, 0);
      for (int64_t t = first; t < last; ++t) {
        const float* row = x + static_cast<size_t>(t) * width;
        for (size_t c = 0; c < width; ++c) {
          const double v = std::abs(static_cast<double>(row[c]));
          moments.mean[c] += v;
          moments.square[c] += v * v;
        }
      }
      const auto rows = static_cast<double>(std::max<int64_t>(1, moments.rows));
      for (size_t c = 0; c < width; ++c) {
        moments.mean[c] /= rows;
        moments.square[c] /= rows;
        if (std::isfinite(moments.square[c])) continue;
        return pennyweight::Error(
                   ErrorCode::kNonFinite,
                   fmt::format("channel {} of what it reads is NaN or infinite for some token", c))
            .InTensor(NameFor(step.weight, in_.layer, e));
      }
    }
  }
  return inputs;
}

Fold AwqBlock::Sliced(const Step& step, const Fold& fold) const {
  return {Pick(fold.row_scale, Kept(step.out)), Pick(fold.col_scale, Kept(step.in))};
}

// The weight as it comes back from rounding in folded numbers, tile by tile.
Result<Weight> AwqBlock::Rounded(const Context& context, const BlockInputs& inputs,
                                 const WeightKey& key, const Fold& whole) const {
  const Step* step = nullptr;
  for (size_t i = begin_; i < end_; ++i) {
    if (in_.family->layer[i].weight == key.pattern) step = &in_.family->layer[i];
  }
  const Weight& from = weights_.at(key);
  const Fold fold = Sliced(*step, whole), back = Inverse(fold);
  const int64_t cols = from.cols;
  const InputMoments& moments = inputs.at({step->in, key.expert});
  const std::vector<float> importance =
      Importance(moments.rows > 0 ? moments.square : std::vector<double>(), fold.col_scale,
                 Kept(step->in), static_cast<size_t>(cols));
  Weight to;
  to.rows = from.rows;
  to.cols = cols;
  to.bias = from.bias;
  to.data.resize(static_cast<size_t>(from.rows * cols) * sizeof(float));
  auto* out = reinterpret_cast<float*>(to.data.data());
  std::vector<float> tile;
  const auto bytes = static_cast<size_t>(DTypeBits(from.dtype) / 8);
  for (int64_t row = 0; row < from.rows; row += TileRows(cols)) {
    if (context.Cancelled()) return pennyweight::Error(ErrorCode::kInterrupted, "interrupted");
    const int64_t rows = std::min(TileRows(cols), from.rows - row);
    tile.resize(static_cast<size_t>(rows * cols));
    DecodeToFloat(from.dtype, from.data.data() + static_cast<size_t>(row * cols) * bytes,
                  tile.data(), tile.size());
    ApplyFold(fold, row, rows, cols, tile.data());
    float* decoded = out + row * cols;
    PW_TRY(in_.round(key.pattern, key.expert, tile.data(), rows, cols, importance, decoded));
    ApplyFold(back, row, rows, cols, decoded);
  }
  return to;
}

Result<double> AwqBlock::Error(const Context& context, const BlockInputs& inputs,
                               const WeightFolds& folds, std::span<const WeightKey> rounded) {
  SwappedWeights swapped(&weights_);
  for (const WeightKey& key : rounded) {
    const auto fold = folds.find(key);
    PW_ASSIGN(Weight weight,
              Rounded(context, inputs, key, fold == folds.end() ? Fold() : fold->second));
    swapped.Put(key, std::move(weight));
  }
  // Steps in front of the addition leave the hidden states alone.
  runner_.Run(context, weights_, stream_->windows, begin_, end_, stream_->hidden.data());
  HiddenError error;
  error.Add(output_, {runner_.slot(output_slot_), output_.size()});
  return error.RelError();
}

}  // namespace pennyweight
