// How well a model predicts a text, and how far its predictions are from a reference model's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "calib/run_model.h"
#include "calib/windows.h"
#include "lib/context.h"
#include "lib/result.h"

namespace pennyweight {

// Against a reference: KL divergence KL(reference || model) in nats of each scored prediction.
struct ReferenceScores {
  double nll_sum = 0;  // the reference's own
  double perplexity = 0;
  double kl_mean = 0;
  double kl_median = 0;
  double kl_p99 = 0;  // percentiles are interpolated linearly
  double kl_max = 0;
  double top1_agreement = 0;      // share of predictions whose likeliest token is the same
  std::vector<double> window_kl;  // mean of each window that has a scored prediction
};

struct EvalScores {
  int64_t tokens = 0;                  // scored predictions
  double nll_sum = 0;                  // negative log-likelihood, nats
  double perplexity = 0;               // exp(nll_sum / tokens)
  double perplexity_stderr = 0;        // perplexity times the standard error of the mean
  std::vector<double> window_nll;      // mean of each window that has a scored prediction
  std::vector<int64_t> window_tokens;  // how many it has
  std::optional<ReferenceScores> reference;
};

// Scores `model` on windows, against `reference` unless that is null. The models are run one after
// the other, a layer at a time, and their logits are compared tile by tile of the vocabulary.
// Errors: those of RunModel; kUsage (the reference has another vocabulary), kTextTooShort (nothing
// is scored), kNonFinite (a logit is NaN or infinite; names the token).
Result<EvalScores> Evaluate(const Context& context, const RunnableModel& model,
                            const RunnableModel* reference, const Windows& windows,
                            const std::string& scratch_dir);

// Logits of every position of one context: [ids, vocab_size]. Errors: those of RunModel, kMemory
// (they do not fit the limit).
Result<std::vector<float>> ContextLogits(const Context& context, const RunnableModel& model,
                                         std::span<const int32_t> ids);

}  // namespace pennyweight
