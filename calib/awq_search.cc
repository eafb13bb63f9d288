#include "calib/awq_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "calib/awq_scales.h"
#include "calib/hidden_error.h"
#include "lib/linalg.h"

namespace pennyweight {
namespace {

// What a scale is searched on: activation rows, and rows of all consumers together. The decision is
// made on the whole block and all held-out tokens.
constexpr int64_t kSearchTokens = 512;
constexpr int64_t kSearchRows = 1024;
constexpr int64_t kLeastRows = 64;  // of one consumer
// Strengths: 0.1 to 1, then half steps around the best; a rule is left when it got worse twice.
constexpr double kStep = 0.1;
// Columns that the mean of weights is relative to, as if they were a group.
constexpr int64_t kGroup = 128;
// As the calibrated walk: a channel that was not seen still counts a little.
constexpr double kImportanceDamp = 0.01;
// A fold stays when it takes at least this part of the block's held-out error away.
constexpr double kLeastGain = 0.005;

struct Key {
  std::string_view pattern;
  int64_t expert = -1;
  auto operator<=>(const Key&) const = default;
};

// Windows of tokens and where they stand: the hidden states in front of a block, and what the
// original block makes of them.
struct Stream {
  std::span<const int64_t> windows;
  int64_t tokens = 0;
  std::vector<float> hidden;
  std::vector<float> output;
};

// A linear's input on the calibration tokens.
struct InputRows {
  int64_t width = 0;
  std::vector<double> mean, square;  // of |x| and of x^2, over all tokens
  int64_t rows = 0;                  // sampled
  std::vector<float> x;              // [rows, width]
};

std::vector<float> Decoded(const Weight& weight) {
  std::vector<float> out(static_cast<size_t>(weight.rows * weight.cols));
  DecodeToFloat(weight.dtype, weight.data.data(), out.data(), out.size());
  return out;
}

// x[rows, k] w[n, k]^T.
std::vector<float> Product(const Context& context, const InputRows& in, const std::vector<float>& w,
                           int64_t n) {
  std::vector<float> out(static_cast<size_t>(in.rows * n));
  GemmArgs args;
  args.m = in.rows;
  args.n = n;
  args.k = in.width;
  args.a = in.x.data();
  args.a_stride = in.width;
  args.b = w.data();
  args.b_stride = in.width;
  args.c = out.data();
  args.c_stride = n;
  Gemm(context, args);
  return out;
}

// Some rows of a consumer, and what they make of the sampled inputs.
struct Sample {
  Key key;
  const InputRows* input = nullptr;
  int64_t rows = 0;
  std::vector<float> w;  // [rows, cols]
  double output_sq = 0;  // |X W^T|^2
};

class Search {
 public:
  Search(const Context& context, const AwqInput& in)
      : context_(context), in_(in), runner_(*in.family, *in.config) {}

  Result<LayerFolds> Run();

 private:
  void Start(std::span<const int64_t> windows, const float* hidden, Stream* stream) const;
  void RunOriginal(const FoldPoint& point, Stream* stream);
  void Advance(size_t begin, size_t end, Stream* stream);
  Status SampleInputs(const FoldPoint& point);
  Status SearchPoint(const FoldPoint& point);
  std::vector<Sample> Samples(const FoldPoint& point) const;
  ChannelStatistics Statistics(const FoldPoint& point, const std::vector<Sample>& samples) const;
  Result<double> SampleError(const FoldPoint& point, const std::vector<Sample>& samples,
                             const std::vector<float>& scale);
  Result<double> BlockError(const FoldPoint& point, const std::vector<float>& scale,
                            const Stream& stream);
  Status RoundWeight(const Key& key, const Fold& fold, Weight* weight);
  // Columns of a consumer for a scale of the producer's channels.
  std::vector<float> Columns(const FoldPoint& point, int64_t cols,
                             const std::vector<float>& scale) const;
  Fold CurrentFold(const Key& key) const {
    const auto it = folds_.find(key);
    return it == folds_.end() ? Fold() : it->second;
  }
  void Importance(const InputRows& input, const std::vector<float>& columns,
                  std::vector<float>* out) const;
  Status RoundFolded(const Key& key, const std::vector<float>& w, int64_t rows, int64_t cols,
                     const InputRows& input, const Fold& fold, std::vector<float>* out);

  const Context& context_;
  const AwqInput& in_;
  LayerRunner runner_;
  Stream calibration_, heldout_;
  std::map<Slot, InputRows> inputs_;  // of the current block
  std::map<std::string_view, Slot> slot_of_;
  std::map<Key, Fold> folds_;  // kept so far
  LayerFolds result_;
};

void Search::Start(std::span<const int64_t> windows, const float* hidden, Stream* stream) const {
  stream->windows = windows;
  for (const int64_t n : windows) stream->tokens += n;
  stream->hidden.assign(hidden, hidden + stream->tokens * in_.config->hidden_size);
}

void Search::RunOriginal(const FoldPoint& point, Stream* stream) {
  runner_.Run(context_, *in_.weights, stream->windows, point.begin, point.end,
              stream->hidden.data());
  const Slot out = in_.family->layer[point.end].in;
  const float* y = runner_.slot(out);
  stream->output.assign(y, y + stream->tokens * runner_.width(out));
}

void Search::Advance(size_t begin, size_t end, Stream* stream) {
  runner_.Run(context_, *in_.weights, stream->windows, begin, end, stream->hidden.data());
}

// After RunOriginal on the calibration tokens: what every linear of the block read.
Status Search::SampleInputs(const FoldPoint& point) {
  inputs_.clear();
  for (size_t i = point.begin; i < point.end; ++i) {
    const Step& step = in_.family->layer[i];
    if (step.kind != StepKind::kLinear) continue;
    slot_of_[step.weight] = step.in;
    if (inputs_.contains(step.in)) continue;
    InputRows& input = inputs_[step.in];
    const int64_t tokens = calibration_.tokens;
    const float* x = runner_.slot(step.in);
    input.width = runner_.width(step.in);
    const auto width = static_cast<size_t>(input.width);
    input.mean.assign(width, 0);
    input.square.assign(width, 0);
    for (int64_t t = 0; t < tokens; ++t) {
      for (size_t c = 0; c < width; ++c) {
        const double v = std::abs(static_cast<double>(x[static_cast<size_t>(t) * width + c]));
        input.mean[c] += v;
        input.square[c] += v * v;
      }
    }
    for (size_t c = 0; c < width; ++c) {
      input.mean[c] /= static_cast<double>(tokens);
      input.square[c] /= static_cast<double>(tokens);
      if (std::isfinite(input.square[c])) continue;
      return Error(ErrorCode::kNonFinite,
                   fmt::format("an activation in channel {} of its input is NaN or infinite", c))
          .InTensor(std::string(step.weight));
    }
    input.rows = std::min(tokens, kSearchTokens);
    for (int64_t r = 0; r < input.rows; ++r) {
      const float* row = x + r * tokens / input.rows * input.width;
      input.x.insert(input.x.end(), row, row + input.width);
    }
  }
  return OkStatus();
}

std::vector<float> Search::Columns(const FoldPoint& point, int64_t cols,
                                   const std::vector<float>& scale) const {
  std::vector<float> out(static_cast<size_t>(cols));
  for (int64_t c = 0; c < cols; ++c) {
    out[static_cast<size_t>(c)] =
        scale[static_cast<size_t>(ProducerChannel(point.kind, *in_.config, c))];
  }
  return out;
}

void Search::Importance(const InputRows& input, const std::vector<float>& columns,
                        std::vector<float>* out) const {
  out->resize(input.square.size());
  double mean = 0;
  for (size_t c = 0; c < out->size(); ++c) {
    const double s = columns.empty() ? 1 : static_cast<double>(columns[c]);
    const double v = input.square[c] / (s * s);
    (*out)[c] = static_cast<float>(v);
    mean += v;
  }
  const auto damp = static_cast<float>(kImportanceDamp * mean / static_cast<double>(out->size()));
  for (float& v : *out) v += damp;
}

// Rounds some rows of a weight in folded numbers, and brings them back.
Status Search::RoundFolded(const Key& key, const std::vector<float>& w, int64_t rows, int64_t cols,
                           const InputRows& input, const Fold& fold, std::vector<float>* out) {
  std::vector<float> folded = w, importance;
  ApplyFold(fold, 0, rows, cols, folded.data());
  Importance(input, fold.col_scale, &importance);
  out->resize(w.size());
  PW_TRY(in_.round(key.pattern, key.expert, folded.data(), rows, cols, importance, out->data()));
  ApplyFold(Inverse(fold), 0, rows, cols, out->data());
  return OkStatus();
}

std::vector<Sample> Search::Samples(const FoldPoint& point) const {
  std::vector<Sample> samples;
  const int64_t share =
      std::max(kLeastRows, kSearchRows / static_cast<int64_t>(point.consumers.size()));
  for (const std::string_view pattern : point.consumers) {
    const Weight& weight = in_.weights->at({pattern});
    Sample sample;
    sample.key = {pattern, -1};
    sample.input = &inputs_.at(slot_of_.at(pattern));
    sample.rows = std::min(weight.rows, share);
    sample.w.resize(static_cast<size_t>(sample.rows * weight.cols));
    const int64_t bytes = DTypeBits(weight.dtype) / 8 * weight.cols;
    for (int64_t r = 0; r < sample.rows; ++r) {
      DecodeToFloat(weight.dtype, weight.data.data() + r * weight.rows / sample.rows * bytes,
                    sample.w.data() + r * weight.cols, static_cast<size_t>(weight.cols));
    }
    for (const float y : Product(context_, *sample.input, sample.w, sample.rows)) {
      sample.output_sq += static_cast<double>(y) * static_cast<double>(y);
    }
    samples.push_back(std::move(sample));
  }
  return samples;
}

// Statistics of the producer's channels; those of several columns are averaged.
ChannelStatistics Search::Statistics(const FoldPoint& point,
                                     const std::vector<Sample>& samples) const {
  const InputRows& input = *samples.front().input;
  const int64_t cols = input.width;
  const auto channels = static_cast<size_t>(ProducerChannel(point.kind, *in_.config, cols - 1) + 1);
  ChannelStatistics out;
  out.mean.resize(channels);
  out.square.resize(channels);
  out.weight.resize(channels);
  out.range.resize(channels);
  int64_t rows = 0;
  for (const Sample& sample : samples) rows += sample.rows;
  const double share = static_cast<double>(channels) / static_cast<double>(cols);
  for (int64_t c = 0; c < cols; ++c) {
    const auto channel = static_cast<size_t>(ProducerChannel(point.kind, *in_.config, c));
    out.mean[channel] += share * input.mean[static_cast<size_t>(c)];
    out.square[channel] += share * input.square[static_cast<size_t>(c)];
  }
  for (const Sample& sample : samples) {
    for (int64_t r = 0; r < sample.rows; ++r) {
      const float* w = sample.w.data() + r * cols;
      for (int64_t first = 0; first < cols; first += kGroup) {
        const int64_t last = std::min(cols, first + kGroup);
        float most = 0;
        for (int64_t c = first; c < last; ++c) most = std::max(most, std::abs(w[c]));
        for (int64_t c = first; c < last && most > 0; ++c) {
          const auto channel = static_cast<size_t>(ProducerChannel(point.kind, *in_.config, c));
          const auto size = static_cast<double>(std::abs(w[c]));
          out.weight[channel] +=
              share * size / static_cast<double>(most) / static_cast<double>(rows);
          out.range[channel] = std::max(out.range[channel], size);
        }
      }
    }
  }
  return out;
}

// |X (W - W')^T|^2 of the sampled rows, relative to |X W^T|^2, summed over the consumers.
Result<double> Search::SampleError(const FoldPoint& point, const std::vector<Sample>& samples,
                                   const std::vector<float>& scale) {
  double error = 0;
  std::vector<float> rounded;
  for (const Sample& sample : samples) {
    if (context_.Cancelled()) return Error(ErrorCode::kInterrupted, "interrupted");
    const int64_t cols = sample.input->width;
    Fold fold;
    fold.col_scale = CurrentFold(sample.key).col_scale;
    if (!scale.empty()) fold = Compose(fold, {{}, Columns(point, cols, scale)});
    PW_TRY(RoundFolded(sample.key, sample.w, sample.rows, cols, *sample.input, fold, &rounded));
    for (size_t i = 0; i < rounded.size(); ++i) rounded[i] -= sample.w[i];
    double sum = 0;
    for (const float y : Product(context_, *sample.input, rounded, sample.rows)) {
      sum += static_cast<double>(y) * static_cast<double>(y);
    }
    if (sample.output_sq > 0) error += sum / sample.output_sq;
  }
  return error;
}

Status Search::RoundWeight(const Key& key, const Fold& fold, Weight* weight) {
  std::vector<float> rounded;
  PW_TRY(RoundFolded(key, Decoded(*weight), weight->rows, weight->cols,
                     inputs_.at(slot_of_.at(key.pattern)), fold, &rounded));
  weight->dtype = DType::kF32;
  const auto* bytes = reinterpret_cast<const uint8_t*>(rounded.data());
  weight->data.assign(bytes, bytes + rounded.size() * sizeof(float));
  return OkStatus();
}

// The block's held-out error when the mapping's own linears are rounded with the folds kept so far,
// and with `scale` on top.
Result<double> Search::BlockError(const FoldPoint& point, const std::vector<float>& scale,
                                  const Stream& stream) {
  LayerWeights weights = *in_.weights;
  for (const std::string_view pattern : point.consumers) {
    Weight& weight = weights.at({pattern});
    Fold fold = CurrentFold({pattern, -1});
    if (!scale.empty()) fold = Compose(fold, {{}, Columns(point, weight.cols, scale)});
    PW_TRY(RoundWeight({pattern, -1}, fold, &weight));
  }
  if (point.kind != FoldPoint::Kind::kNorm) {
    Weight& weight = weights.at({point.producer});
    Fold fold = CurrentFold({point.producer, -1});
    if (!scale.empty()) fold = Compose(fold, Inverse({scale, {}}));
    PW_TRY(RoundWeight({point.producer, -1}, fold, &weight));
  }
  // Only what stands in front of the block is read: nothing is added yet.
  runner_.Run(context_, weights, stream.windows, point.begin, point.end,
              const_cast<float*>(stream.hidden.data()));
  HiddenError error;
  const Slot out = in_.family->layer[point.end].in;
  error.Add(stream.output, {runner_.slot(out), stream.output.size()});
  return error.RelError();
}

Status Search::SearchPoint(const FoldPoint& point) {
  const std::vector<Sample> samples = Samples(point);
  const ChannelStatistics statistics = Statistics(point, samples);
  ScaleLimits limits;
  limits.dtype = in_.small_dtype;
  const Weight& producer = in_.weights->at({point.producer});
  std::vector<float> gain;
  if (point.kind == FoldPoint::Kind::kNorm) {
    gain = Decoded(producer);
    limits.gain = gain;
  } else {
    limits.powers_of_two = !producer.bias.empty() && in_.small_dtype != DType::kF32;
  }

  MappingResult mapping;
  mapping.producer = point.producer;
  const bool bs = getenv("BLOCKSEARCH") != nullptr;
  PW_ASSIGN(double best, bs ? BlockError(point, {}, calibration_) : SampleError(point, samples, {}));
  std::vector<float> scale;
  for (const AwqRule rule : kAwqRules) {
    double best_of_rule = INFINITY, best_strength = 0;
    const auto attempt = [&](double a) -> Result<bool> {
      std::vector<float> candidate = MakeScale(rule, a, statistics, limits);
      if (candidate.empty()) return false;
      PW_ASSIGN(const double error, bs ? BlockError(point, candidate, calibration_) : SampleError(point, samples, candidate));
      if (error < best) {
        best = error;
        scale = std::move(candidate);
        mapping.rule = AwqRuleName(rule, a);
      }
      if (!(error < best_of_rule)) return false;
      best_of_rule = error;
      best_strength = a;
      return true;
    };
    int worse = 0;
    for (int i = 1; i <= 10 && worse < 2; ++i) {
      PW_ASSIGN(const bool better, attempt(kStep * i));
      worse = better ? 0 : worse + 1;
    }
    if (!(best_of_rule < INFINITY)) continue;
    const double middle = best_strength;
    PW_TRY(attempt(middle - kStep / 2));
    PW_TRY(attempt(middle + kStep / 2));
  }

  PW_ASSIGN(mapping.error_before, BlockError(point, {}, heldout_));
  mapping.error_after = mapping.error_before;
  if (!scale.empty()) {
    PW_ASSIGN(mapping.error_after, BlockError(point, scale, heldout_));
    mapping.kept = mapping.error_after < (1 - kLeastGain) * mapping.error_before;
  }
  if (mapping.kept) {
    for (const std::string_view pattern : point.consumers) {
      Fold& fold = folds_[{pattern, -1}];
      fold = Compose(fold, {{}, Columns(point, in_.weights->at({pattern}).cols, scale)});
    }
    if (point.kind != FoldPoint::Kind::kNorm) {
      Fold& fold = folds_[{point.producer, -1}];
      fold = Compose(fold, Inverse({scale, {}}));
    }
    LayerFold fold;
    fold.kind = point.kind;
    fold.producer = point.producer;
    fold.consumers = point.consumers;
    fold.scale = std::move(scale);
    result_.folds.push_back(std::move(fold));
  }
  result_.mappings.push_back(std::move(mapping));
  return OkStatus();
}

Result<LayerFolds> Search::Run() {
  if (in_.heldout_windows.empty() || in_.windows.empty()) return LayerFolds();
  Start(in_.windows, in_.hidden, &calibration_);
  Start(in_.heldout_windows, in_.heldout, &heldout_);
  const std::vector<FoldPoint> points = FoldPointsOf(*in_.family);
  size_t at = 0;  // steps that the streams' hidden states have behind them
  size_t block = SIZE_MAX;
  for (const FoldPoint& point : points) {
    if (point.begin != block) {
      block = point.begin;
      Advance(at, block, &calibration_);
      Advance(at, block, &heldout_);
      at = block;
      RunOriginal(point, &heldout_);
      RunOriginal(point, &calibration_);
      PW_TRY(SampleInputs(point));
    }
    PW_TRY(SearchPoint(point));
  }
  return std::move(result_);
}

}  // namespace

Result<LayerFolds> SearchAwq(const Context& context, const AwqInput& input) {
  return Search(context, input).Run();
}

}  // namespace pennyweight
