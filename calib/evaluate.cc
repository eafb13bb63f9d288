#include "calib/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "calib/ops.h"
#include "lib/parallel.h"

namespace pennyweight {
namespace {

constexpr int64_t kVocabularyTile = 4096;  // rows of the head that are multiplied at a time
constexpr int64_t kTokenBlock = 256;       // scored tokens that are multiplied at a time

// What is known of one prediction's distribution after some tiles of its logits.
struct Distribution {
  float max = -std::numeric_limits<float>::infinity();
  double sum = 0;     // of exp(logit - max)
  double target = 0;  // the logit of the token that came
  int64_t best = -1;  // the likeliest token, the lower id on ties

  double LogSumExp() const { return static_cast<double>(max) + std::log(sum); }
  double NegativeLogLikelihood() const { return LogSumExp() - target; }
};

struct Prediction {
  Distribution model, reference;
  double difference = 0;  // sum of exp(reference - its max) * (reference - model)
  bool finite = true;
};

// Adds the logits of tokens [first_token, first_token + count) of the vocabulary. False when one of
// them is not finite. `rescale` becomes what earlier sums were multiplied by.
bool AddTile(const float* logits, int64_t count, int64_t first_token, int32_t target,
             Distribution* d, double* rescale) {
  const float max = MaxOfRow(logits, count);
  if (!std::isfinite(max)) return false;
  *rescale = 1;
  if (max > d->max) {
    *rescale = std::exp(static_cast<double>(d->max) - static_cast<double>(max));
    d->max = max;
    d->best = first_token + (std::find(logits, logits + count, max) - logits);
  }
  d->sum = d->sum * *rescale + SumExp(logits, count, d->max);
  if (target >= first_token && target < first_token + count) {
    d->target = static_cast<double>(logits[target - first_token]);
  }
  return true;
}

// One model's part of the work: its normed states, a tile of its head, a block's logits.
struct Side {
  const RunnableModel* model;
  HiddenStore states;
  Weight head = {};
  std::vector<float> rows = {};
  std::vector<float> logits = {};

  Status LoadBlock(const Context& context, int64_t token, int64_t count) {
    rows.resize(static_cast<size_t>(count * states.width()));
    logits.resize(static_cast<size_t>(count * head.rows));
    PW_TRY(states.Read(token, count, rows.data()));
    MultiplyHead(context, head, rows.data(), count, logits.data());
    return OkStatus();
  }
};

// Runs every tile of the vocabulary over every block of scored tokens.
class Scorer {
 public:
  Scorer(std::vector<Side> sides, std::vector<int32_t> targets)
      : sides_(std::move(sides)), targets_(std::move(targets)), predictions_(targets_.size()) {}

  Status Run(const Context& context) {
    const int64_t vocabulary = sides_[0].model->config->vocab_size;
    if (context.progress != nullptr) context.progress->Phase("logits", vocabulary);
    for (int64_t row = 0; row < vocabulary; row += kVocabularyTile) {
      const int64_t count = std::min(kVocabularyTile, vocabulary - row);
      for (Side& side : sides_) {
        PW_ASSIGN(side.head, LoadHeadRows(*side.model, row, count));
      }
      PW_TRY(RunTile(context, row));
      if (context.progress != nullptr) context.progress->Advance(row + count);
    }
    return OkStatus();
  }
  const std::vector<Prediction>& predictions() const { return predictions_; }

 private:
  Status RunTile(const Context& context, int64_t row) {
    const auto total = static_cast<int64_t>(targets_.size());
    for (int64_t token = 0; token < total; token += kTokenBlock) {
      if (context.Cancelled()) return Error(ErrorCode::kInterrupted, "interrupted");
      const int64_t count = std::min(kTokenBlock, total - token);
      for (Side& side : sides_) PW_TRY(side.LoadBlock(context, token, count));
      ParallelFor(context, count, [&](int64_t i) { AddToken(token + i, i, row); });
    }
    return OkStatus();
  }

  void AddToken(int64_t token, int64_t block_row, int64_t vocabulary_row) {
    Prediction& p = predictions_[static_cast<size_t>(token)];
    const int32_t target = targets_[static_cast<size_t>(token)];
    const int64_t n = sides_[0].head.rows;
    const float* logits = sides_[0].logits.data() + block_row * n;
    double rescale = 1;
    p.finite = AddTile(logits, n, vocabulary_row, target, &p.model, &rescale) && p.finite;
    if (sides_.size() < 2) return;
    const float* reference = sides_[1].logits.data() + block_row * n;
    p.finite = AddTile(reference, n, vocabulary_row, target, &p.reference, &rescale) && p.finite;
    if (!p.finite) return;
    p.difference = p.difference * rescale + SumExpDifference(reference, logits, n, p.reference.max);
  }

  std::vector<Side> sides_;  // the model, and the reference where there is one
  std::vector<int32_t> targets_;
  std::vector<Prediction> predictions_;
};

// KL(reference || model) = sum p_r (l_r - l_m) - lse_r + lse_m; never below zero but by rounding.
double Divergence(const Prediction& p) {
  const double kl = p.difference / p.reference.sum - p.reference.LogSumExp() + p.model.LogSumExp();
  return std::max(kl, 0.0);
}

// The p-quantile of sorted values, interpolated linearly.
double Quantile(const std::vector<double>& sorted, double p) {
  const double at = p * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  const double part = at - static_cast<double>(low);
  return sorted[low] + part * (sorted[high] - sorted[low]);
}

double Mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// Scored predictions of each window that has some.
std::vector<int64_t> WindowTokens(const Windows& windows) {
  std::vector<int64_t> counts;
  for (size_t w = 0; w < windows.lengths.size(); ++w) {
    const int64_t count = windows.lengths[w] - std::max<int64_t>(windows.first_scored[w], 1);
    if (count > 0) counts.push_back(count);
  }
  return counts;
}

// Means of the windows' own predictions.
std::vector<double> WindowMeans(const Windows& windows, const std::vector<double>& values) {
  std::vector<double> means;
  size_t at = 0;
  for (const int64_t count : WindowTokens(windows)) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += values[at++];
    means.push_back(sum / static_cast<double>(count));
  }
  return means;
}

ReferenceScores ScoreReference(const std::vector<Prediction>& predictions, const Windows& windows) {
  ReferenceScores scores;
  std::vector<double> kl;
  int64_t agreed = 0;
  for (const Prediction& p : predictions) {
    scores.nll_sum += p.reference.NegativeLogLikelihood();
    kl.push_back(Divergence(p));
    if (p.model.best == p.reference.best) ++agreed;
  }
  const auto count = static_cast<double>(predictions.size());
  scores.perplexity = std::exp(scores.nll_sum / count);
  scores.top1_agreement = static_cast<double>(agreed) / count;
  scores.window_kl = WindowMeans(windows, kl);
  scores.kl_mean = Mean(kl);
  std::ranges::sort(kl);
  scores.kl_median = Quantile(kl, 0.5);
  scores.kl_p99 = Quantile(kl, 0.99);
  scores.kl_max = kl.back();
  return scores;
}

EvalScores Score(const std::vector<Prediction>& predictions, const Windows& windows,
                 bool has_reference) {
  EvalScores scores;
  scores.tokens = static_cast<int64_t>(predictions.size());
  std::vector<double> nll;
  for (const Prediction& p : predictions) nll.push_back(p.model.NegativeLogLikelihood());
  scores.nll_sum = std::accumulate(nll.begin(), nll.end(), 0.0);
  const auto count = static_cast<double>(nll.size());
  const double mean = scores.nll_sum / count;
  scores.perplexity = std::exp(mean);
  double squares = 0;
  for (const double x : nll) squares += (x - mean) * (x - mean);
  // The standard error of the mean, carried through exp by its derivative.
  if (nll.size() > 1) {
    scores.perplexity_stderr = scores.perplexity * std::sqrt(squares / count / (count - 1));
  }
  scores.window_tokens = WindowTokens(windows);
  scores.window_nll = WindowMeans(windows, nll);
  if (has_reference) scores.reference = ScoreReference(predictions, windows);
  return scores;
}

}  // namespace

Result<EvalScores> Evaluate(const Context& context, const RunnableModel& model,
                            const RunnableModel* reference, const Windows& windows,
                            const std::string& scratch_dir) {
  if (reference != nullptr && reference->config->vocab_size != model.config->vocab_size) {
    return Error(ErrorCode::kUsage,
                 fmt::format("the model has {} tokens, the reference {}: their predictions cannot "
                             "be compared",
                             model.config->vocab_size, reference->config->vocab_size));
  }
  const std::vector<int64_t> positions = ScoredPositions(windows);
  if (positions.empty()) return Error(ErrorCode::kTextTooShort, "no prediction is to be scored");
  std::vector<int32_t> targets;
  for (const int64_t p : positions) targets.push_back(windows.ids[static_cast<size_t>(p) + 1]);
  std::vector<Side> sides;
  PW_ASSIGN(HiddenStore states, RunModel(context, model, windows, scratch_dir, ""));
  sides.push_back({&model, std::move(states)});
  if (reference != nullptr) {
    PW_ASSIGN(HiddenStore other,
              RunModel(context, *reference, windows, scratch_dir, "reference: "));
    sides.push_back({reference, std::move(other)});
  }
  Scorer scorer(std::move(sides), std::move(targets));
  PW_TRY(scorer.Run(context));
  for (size_t i = 0; i < positions.size(); ++i) {
    if (scorer.predictions()[i].finite) continue;
    return Error(ErrorCode::kNonFinite,
                 fmt::format("the logits behind token {} are not finite", positions[i]))
        .Hint("run `pennyweight verify` on the model: a weight may be NaN or infinite");
  }
  return Score(scorer.predictions(), windows, reference != nullptr);
}

Result<std::vector<float>> ContextLogits(const Context& context, const RunnableModel& model,
                                         std::span<const int32_t> ids) {
  const auto tokens = static_cast<int64_t>(ids.size());
  const int64_t vocabulary = model.config->vocab_size;
  const uint64_t bytes = static_cast<uint64_t>(tokens * vocabulary) * sizeof(float);
  if (bytes > context.memory_limit / 2) {
    return Error(ErrorCode::kMemory, fmt::format("{} logits of {} tokens are {} MB, more than half "
                                                 "of the memory limit",
                                                 vocabulary, tokens, bytes / 1000000 + 1))
        .Hint(fmt::format("--memory {}M, or a smaller --context", 2 * bytes / 1000000 + 1));
  }
  // Every id predicts one more, which is not known: an extra id that no state depends on.
  Windows windows;
  windows.ids.assign(ids.begin(), ids.end());
  windows.ids.push_back(ids.empty() ? 0 : ids.back());
  windows.lengths = {tokens + 1};
  windows.first_scored = {1};
  PW_ASSIGN(HiddenStore states, RunModel(context, model, windows, "", ""));
  std::vector<float> normed(static_cast<size_t>(tokens * states.width()));
  PW_TRY(states.Read(0, tokens, normed.data()));
  std::vector<float> logits(static_cast<size_t>(tokens * vocabulary));
  std::vector<float> tile;
  for (int64_t row = 0; row < vocabulary; row += kVocabularyTile) {
    const int64_t count = std::min(kVocabularyTile, vocabulary - row);
    PW_ASSIGN(const Weight head, LoadHeadRows(model, row, count));
    tile.resize(static_cast<size_t>(tokens * count));
    MultiplyHead(context, head, normed.data(), tokens, tile.data());
    for (int64_t t = 0; t < tokens; ++t) {
      std::copy_n(tile.begin() + t * count, count, logits.begin() + t * vocabulary + row);
    }
  }
  return logits;
}

}  // namespace pennyweight
