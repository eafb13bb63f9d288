#include "calib/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "calib/ops.h"

namespace pennyweight {
namespace {

constexpr int64_t kVocabularyTile = 4096;

// Runs prefixes; keeps layers and head tiles once they were read, where memory allows.
class PrefixRunner {
 public:
  PrefixRunner(const Context& context, const RunnableModel& model)
      : context_(context),
        model_(model),
        runner_(*model.family, *model.config),
        keep_(WeightBytes() <= context.memory_limit / 2) {}

  // Logits behind the last id: [vocab_size].
  Result<std::vector<float>> LastLogits(std::span<const int32_t> ids) {
    const int64_t width = model_.config->hidden_size;
    std::vector<float> hidden(ids.size() * static_cast<size_t>(width));
    PW_TRY(EmbedTokens(*model_.source, *model_.family, *model_.config, ids, hidden.data()));
    const int64_t windows[] = {static_cast<int64_t>(ids.size())};
    LayerWeights once;
    for (int64_t layer = 0; layer < model_.config->layers; ++layer) {
      if (context_.Cancelled()) return Error(ErrorCode::kInterrupted, "interrupted");
      LayerWeights* weights = &once;
      if (keep_) {
        layers_.resize(static_cast<size_t>(model_.config->layers));
        weights = &layers_[static_cast<size_t>(layer)];
      }
      if (!keep_ || weights->empty()) {
        PW_ASSIGN(*weights, LoadLayer(*model_.source, *model_.family, *model_.config, layer));
      }
      runner_.Run(context_, *weights, windows, 0, model_.family->layer.size(), hidden.data());
    }
    float* last = hidden.data() + (static_cast<int64_t>(ids.size()) - 1) * width;
    PW_TRY(FinalNorm(context_, model_, 1, last));
    return MultiplyAllRows(last);
  }

 private:
  // What all layers and the head take in memory, at most: as floats.
  uint64_t WeightBytes() const {
    uint64_t elements = 0;
    for (const TensorInfo& info : model_.source->tensors()) {
      elements += static_cast<uint64_t>(info.elements());
    }
    return elements * sizeof(float);
  }

  Result<std::vector<float>> MultiplyAllRows(const float* normed) {
    const int64_t vocabulary = model_.config->vocab_size;
    std::vector<float> logits(static_cast<size_t>(vocabulary));
    for (int64_t row = 0; row < vocabulary; row += kVocabularyTile) {
      const auto tile = static_cast<size_t>(row / kVocabularyTile);
      Weight once;
      Weight* head = &once;
      if (keep_) {
        if (head_.size() <= tile) head_.resize(tile + 1);
        head = &head_[tile];
      }
      if (head->rows == 0) {
        const int64_t count = std::min(kVocabularyTile, vocabulary - row);
        PW_ASSIGN(*head, LoadHeadRows(model_, row, count));
      }
      MultiplyHead(context_, *head, normed, 1, logits.data() + row);
    }
    return logits;
  }

  const Context& context_;
  const RunnableModel& model_;
  LayerRunner runner_;
  const bool keep_;
  std::vector<LayerWeights> layers_;
  std::vector<Weight> head_;
};

std::vector<NextToken> TopTokens(const std::vector<float>& logits, float max) {
  const auto n = static_cast<int64_t>(logits.size());
  const double sum = SumExp(logits.data(), n, max);
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const size_t count = std::min(kTopTokens, order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<int64_t>(count), order.end(),
                    [&](int32_t a, int32_t b) {
                      const float x = logits[static_cast<size_t>(a)];
                      const float y = logits[static_cast<size_t>(b)];
                      return x != y ? x > y : a < b;
                    });
  std::vector<NextToken> top;
  for (size_t i = 0; i < count; ++i) {
    const double above =
        static_cast<double>(logits[static_cast<size_t>(order[i])]) - static_cast<double>(max);
    top.push_back({order[i], std::exp(above) / sum});
  }
  return top;
}

}  // namespace

Result<Generation> Generate(const Context& context, const RunnableModel& model,
                            std::span<const int32_t> prompt, int64_t count,
                            std::span<const int32_t> stop) {
  Generation generation;
  std::vector<int32_t> prefix(prompt.begin(), prompt.end());
  PrefixRunner runner(context, model);
  for (int64_t step = 0; step < std::max<int64_t>(count, 1); ++step) {
    PW_ASSIGN(const std::vector<float> logits, runner.LastLogits(prefix));
    const float max = MaxOfRow(logits.data(), static_cast<int64_t>(logits.size()));
    if (!std::isfinite(max)) {
      return Error(ErrorCode::kNonFinite, "the logits of the next token are not finite")
          .Hint("run `pennyweight verify` on the model: a weight may be NaN or infinite");
    }
    if (step == 0) generation.top = TopTokens(logits, max);
    const auto best = static_cast<int32_t>(std::ranges::find(logits, max) - logits.begin());
    if (count == 0 || std::ranges::find(stop, best) != stop.end()) break;
    generation.ids.push_back(best);
    prefix.push_back(best);
  }
  return generation;
}

}  // namespace pennyweight
