#include "calib/awq_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "calib/awq_block.h"
#include "calib/awq_scales.h"
#include "lib/dtype.h"

namespace pennyweight {
namespace {

// Strengths: 0.1 to 1, then half steps around the best; a rule is left when it got worse twice.
constexpr double kStep = 0.1;
constexpr int kSteps = 10;
constexpr int kPatience = 2;
// Columns that the mean of weights is relative to, as if they were a group.
constexpr int64_t kGroup = 128;
// Rows of each linear that the means of weights are taken over.
constexpr int64_t kStatisticsRows = 256;
// A fold stays when it takes at least this part of the block's held-out error away.
constexpr double kLeastGain = 0.005;

// One fold point, of one expert where it has one.
struct Mapping {
  const FoldPoint* point = nullptr;
  int64_t expert = -1;
  WeightKey producer;
  std::vector<WeightKey> consumers;
  std::vector<WeightKey> rounded;  // consumers, and the producer where that is a linear
};

class Search {
 public:
  Search(const Context& context, const AwqInput& in)
      : context_(context), in_(in), runner_(*in.family, *in.config) {}

  Result<LayerFolds> Run();

 private:
  AwqStream Start(std::span<const int64_t> windows, const float* hidden) const;
  Status BeginBlock(const FoldPoint& point);
  Mapping MappingOf(const FoldPoint& point, int64_t expert) const;
  Status SearchMapping(const Mapping& mapping);
  Result<std::vector<float>> FindScale(const Mapping& mapping, std::string* rule);
  void Keep(const Mapping& mapping, std::vector<float> scale);
  ChannelStatistics Statistics(const Mapping& mapping) const;
  void AddWeightStatistics(const Mapping& mapping, const Weight& weight, double share,
                           ChannelStatistics* out) const;
  // The folds kept so far with one more on top.
  WeightFolds With(const Mapping& mapping, const std::vector<float>& scale) const;

  const Context& context_;
  const AwqInput& in_;
  LayerRunner runner_;
  AwqStream calibration_, heldout_;
  // Of the current block.
  std::unique_ptr<AwqBlock> narrow_, whole_;
  BlockInputs inputs_;
  WeightFolds folds_;  // kept so far
  LayerFolds result_;
};

AwqStream Search::Start(std::span<const int64_t> windows, const float* hidden) const {
  AwqStream stream;
  stream.windows = windows;
  for (const int64_t n : windows) stream.tokens += n;
  stream.hidden.assign(hidden, hidden + stream.tokens * in_.config->hidden_size);
  return stream;
}

Status Search::BeginBlock(const FoldPoint& point) {
  whole_ = AwqBlock::Whole(in_, point);
  whole_->Watch(context_, &calibration_);
  PW_ASSIGN(inputs_, whole_->Inputs());
  whole_->Watch(context_, &heldout_);
  narrow_ = AwqBlock::Narrow(in_, point);
  narrow_->Watch(context_, &calibration_);
  return OkStatus();
}

Mapping Search::MappingOf(const FoldPoint& point, int64_t expert) const {
  Mapping mapping;
  mapping.point = &point;
  mapping.expert = expert;
  mapping.producer = {point.producer, expert};
  for (const auto& [key, weight] : *in_.weights) {
    const bool reads = std::ranges::find(point.consumers, key.pattern) != point.consumers.end();
    if (reads && (expert < 0 || key.expert == expert)) mapping.consumers.push_back(key);
  }
  mapping.rounded = mapping.consumers;
  if (point.kind != FoldPoint::Kind::kNorm) mapping.rounded.push_back(mapping.producer);
  return mapping;
}

WeightFolds Search::With(const Mapping& mapping, const std::vector<float>& scale) const {
  WeightFolds folds = folds_;
  for (const WeightKey& key : mapping.consumers) {
    Fold one;
    one.col_scale.resize(static_cast<size_t>(in_.weights->at(key).cols));
    for (size_t c = 0; c < one.col_scale.size(); ++c) {
      const int64_t channel =
          ProducerChannel(mapping.point->kind, *in_.config, static_cast<int64_t>(c));
      one.col_scale[c] = scale[static_cast<size_t>(channel)];
    }
    folds[key] = Compose(folds[key], one);
  }
  if (mapping.point->kind != FoldPoint::Kind::kNorm) {
    Fold& fold = folds[mapping.producer];
    fold = Compose(fold, Inverse({scale, {}}));
  }
  return folds;
}

// Adds what some rows of a consumer say of each channel; `share` of all rows that are looked at.
void Search::AddWeightStatistics(const Mapping& mapping, const Weight& weight, double share,
                                 ChannelStatistics* out) const {
  const int64_t rows = std::min(weight.rows, kStatisticsRows);
  const auto bytes = static_cast<size_t>(DTypeBits(weight.dtype) / 8 * weight.cols);
  std::vector<float> w(static_cast<size_t>(weight.cols));
  for (int64_t r = 0; r < rows; ++r) {
    const auto row = static_cast<size_t>(r * weight.rows / rows);
    DecodeToFloat(weight.dtype, weight.data.data() + row * bytes, w.data(), w.size());
    for (int64_t first = 0; first < weight.cols; first += kGroup) {
      const int64_t last = std::min(weight.cols, first + kGroup);
      float most = 0;
      for (int64_t c = first; c < last; ++c) {
        most = std::max(most, std::abs(w[static_cast<size_t>(c)]));
      }
      for (int64_t c = first; c < last && most > 0; ++c) {
        const auto channel =
            static_cast<size_t>(ProducerChannel(mapping.point->kind, *in_.config, c));
        const auto size = static_cast<double>(std::abs(w[static_cast<size_t>(c)]));
        out->weight[channel] +=
            share * size / static_cast<double>(most) / static_cast<double>(rows);
        out->range[channel] = std::max(out->range[channel], size);
      }
    }
  }
}

// Of the producer's channels; those that several columns read are averaged.
ChannelStatistics Search::Statistics(const Mapping& mapping) const {
  // The input of the first consumer that is no expert's, or of the mapping's own expert.
  const WeightKey& first = mapping.consumers.front();
  const Step* step = nullptr;
  for (const Step& each : in_.family->layer) {
    if (each.weight == first.pattern) step = &each;
  }
  const InputMoments& input = inputs_.at({step->in, first.expert});
  const auto cols = static_cast<int64_t>(input.mean.size());
  const auto channels =
      static_cast<size_t>(ProducerChannel(mapping.point->kind, *in_.config, cols - 1) + 1);
  ChannelStatistics out;
  out.mean.resize(channels);
  out.square.resize(channels);
  out.weight.resize(channels);
  out.range.resize(channels);
  const double share = static_cast<double>(channels) / static_cast<double>(cols);
  for (int64_t c = 0; c < cols; ++c) {
    const auto channel = static_cast<size_t>(ProducerChannel(mapping.point->kind, *in_.config, c));
    out.mean[channel] += share * input.mean[static_cast<size_t>(c)];
    out.square[channel] += share * input.square[static_cast<size_t>(c)];
  }
  for (const WeightKey& key : mapping.consumers) {
    AddWeightStatistics(mapping, in_.weights->at(key),
                        share / static_cast<double>(mapping.consumers.size()), &out);
  }
  return out;
}

// The best scale on the calibration tokens; empty: none is better than 1.
Result<std::vector<float>> Search::FindScale(const Mapping& mapping, std::string* rule) {
  const ChannelStatistics statistics = Statistics(mapping);
  const Weight& producer = in_.weights->at(mapping.producer);
  ScaleLimits limits;
  limits.dtype = in_.small_dtype;
  std::vector<float> gain;
  if (mapping.point->kind == FoldPoint::Kind::kNorm) {
    gain.resize(static_cast<size_t>(producer.rows * producer.cols));
    DecodeToFloat(producer.dtype, producer.data.data(), gain.data(), gain.size());
    limits.gain = gain;
  } else {
    limits.powers_of_two = !producer.bias.empty() && in_.small_dtype != DType::kF32;
  }
  PW_ASSIGN(double best, narrow_->Error(context_, inputs_, folds_, mapping.rounded));
  std::vector<float> scale;
  for (const AwqRule each : kAwqRules) {
    double best_of_rule = std::numeric_limits<double>::infinity(), strength = 0;
    const auto attempt = [&](double a) -> Result<bool> {
      std::vector<float> candidate = MakeScale(each, a, statistics, limits);
      if (candidate.empty()) return false;
      PW_ASSIGN(const double error,
                narrow_->Error(context_, inputs_, With(mapping, candidate), mapping.rounded));
      if (error < best) {
        best = error;
        scale = std::move(candidate);
        *rule = AwqRuleName(each, a);
      }
      if (!(error < best_of_rule)) return false;
      best_of_rule = error;
      strength = a;
      return true;
    };
    int worse = 0;
    for (int i = 1; i <= kSteps && worse < kPatience; ++i) {
      PW_ASSIGN(const bool better, attempt(kStep * i));
      worse = better ? 0 : worse + 1;
    }
    if (strength == 0) continue;
    const double middle = strength;
    PW_TRY(attempt(middle - kStep / 2));
    PW_TRY(attempt(middle + kStep / 2));
  }
  return scale;
}

void Search::Keep(const Mapping& mapping, std::vector<float> scale) {
  folds_ = With(mapping, scale);
  LayerFold fold;
  fold.kind = mapping.point->kind;
  fold.producer = mapping.point->producer;
  fold.consumers = mapping.point->consumers;
  fold.expert = mapping.expert;
  fold.scale = std::move(scale);
  result_.folds.push_back(std::move(fold));
}

Status Search::SearchMapping(const Mapping& mapping) {
  MappingResult result;
  result.producer = mapping.point->producer;
  result.expert = mapping.expert;
  PW_ASSIGN(std::vector<float> scale, FindScale(mapping, &result.rule));
  PW_ASSIGN(result.error_before, whole_->Error(context_, inputs_, folds_, mapping.rounded));
  result.error_after = result.error_before;
  if (!scale.empty()) {
    PW_ASSIGN(result.error_after,
              whole_->Error(context_, inputs_, With(mapping, scale), mapping.rounded));
    result.kept = result.error_after < (1 - kLeastGain) * result.error_before;
    if (result.kept) Keep(mapping, std::move(scale));
  }
  result_.mappings.push_back(std::move(result));
  return OkStatus();
}

Result<LayerFolds> Search::Run() {
  if (in_.heldout_windows.empty() || in_.windows.empty()) return LayerFolds();
  calibration_ = Start(in_.windows, in_.hidden);
  heldout_ = Start(in_.heldout_windows, in_.heldout);
  const std::vector<FoldPoint> points = FoldPointsOf(*in_.family);
  size_t at = 0;  // steps that the hidden states have behind them
  for (size_t i = 0; i < points.size(); ++i) {
    const FoldPoint& point = points[i];
    if (i == 0 || point.begin != points[i - 1].begin) {
      for (AwqStream* stream : {&calibration_, &heldout_}) {
        runner_.Run(context_, *in_.weights, stream->windows, at, point.begin,
                    stream->hidden.data());
      }
      at = point.begin;
      PW_TRY(BeginBlock(point));
    }
    const int64_t experts = point.per_expert ? in_.config->experts : 0;
    for (int64_t e = point.per_expert ? 0 : -1; e < experts; ++e) {
      PW_TRY(SearchMapping(MappingOf(point, e)));
    }
  }
  return std::move(result_);
}

}  // namespace

Result<LayerFolds> SearchAwq(const Context& context, const AwqInput& input) {
  return Search(context, input).Run();
}

}  // namespace pennyweight
