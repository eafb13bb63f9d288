// Mixture of experts in the forward pass (the part of LayerRunner, calib/forward.h).
#include <algorithm>
#include <cmath>
#include <cstring>

#include "calib/forward.h"
#include "calib/ops.h"

namespace pennyweight {

// Softmax over all experts and then over the best comes to softmax over the best alone: the
// denominator cancels. The order of equal logits, NaN included, is that of the experts.
void LayerRunner::ChooseExperts(const float* logits) {
  const int64_t experts = config_.experts;
  const int64_t best = config_.experts_per_token;
  chosen_.resize(static_cast<size_t>(tokens_ * best));
  chosen_weight_.resize(chosen_.size());
  std::vector<char> taken(static_cast<size_t>(experts));
  std::vector<double> power(static_cast<size_t>(best));
  for (int64_t t = 0; t < tokens_; ++t) {
    const float* row = logits + t * experts;
    int64_t* chosen = chosen_.data() + t * best;
    std::fill(taken.begin(), taken.end(), 0);
    double sum = 0;
    for (int64_t i = 0; i < best; ++i) {
      int64_t top = -1;
      for (int64_t e = 0; e < experts; ++e) {
        if (taken[static_cast<size_t>(e)] == 0 && (top < 0 || row[e] > row[top])) top = e;
      }
      taken[static_cast<size_t>(top)] = 1;
      chosen[i] = top;
      power[static_cast<size_t>(i)] =
          std::exp(static_cast<double>(row[top]) - static_cast<double>(row[chosen[0]]));
      sum += power[static_cast<size_t>(i)];
    }
    for (int64_t i = 0; i < best; ++i) {
      chosen_weight_[static_cast<size_t>(t * best + i)] =
          static_cast<float>(power[static_cast<size_t>(i)] / sum);
    }
  }
}

float LayerRunner::OwnWeight(int64_t token, int64_t expert) const {
  const int64_t best = config_.experts_per_token;
  for (int64_t i = token * best; i < (token + 1) * best; ++i) {
    if (chosen_[static_cast<size_t>(i)] == expert) return chosen_weight_[static_cast<size_t>(i)];
  }
  return 0;
}

void LayerRunner::Route(const float* logits) {
  ChooseExperts(logits);
  const auto experts = static_cast<size_t>(config_.experts);
  const auto tokens = static_cast<size_t>(tokens_);
  if (forced_ != nullptr) {
    routing_.begin = forced_->begin;
    routing_.token = forced_->token;
  } else if (route_all_) {
    routing_.begin.resize(experts + 1);
    routing_.token.resize(experts * tokens);
    for (size_t e = 0; e <= experts; ++e) routing_.begin[e] = static_cast<int64_t>(e * tokens);
    for (size_t i = 0; i < routing_.token.size(); ++i) {
      routing_.token[i] = static_cast<int64_t>(i % tokens);
    }
  } else {
    // Counting sort by expert; tokens stay in their order.
    routing_.begin.assign(experts + 1, 0);
    for (const int64_t e : chosen_) ++routing_.begin[static_cast<size_t>(e) + 1];
    for (size_t e = 0; e < experts; ++e) routing_.begin[e + 1] += routing_.begin[e];
    std::vector<int64_t> next(routing_.begin.begin(), routing_.begin.end() - 1);
    routing_.token.resize(chosen_.size());
    for (size_t i = 0; i < chosen_.size(); ++i) {
      const int64_t row = next[static_cast<size_t>(chosen_[i])]++;
      routing_.token[static_cast<size_t>(row)] =
          static_cast<int64_t>(i) / config_.experts_per_token;
    }
  }
  routing_.weight.resize(routing_.token.size());
  for (size_t e = 0; e < experts; ++e) {
    for (int64_t row = routing_.begin[e]; row < routing_.begin[e + 1]; ++row) {
      const auto i = static_cast<size_t>(row);
      routing_.weight[i] = OwnWeight(routing_.token[i], static_cast<int64_t>(e));
    }
  }
}

void LayerRunner::GatherRows(const Context& context, const float* in, float* out) const {
  const int64_t n = config_.hidden_size;
  ForRowBlocks(context, rows(Slot::kExpertIn), [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      std::copy_n(in + routing_.token[static_cast<size_t>(row)] * n, n, out + row * n);
    }
  });
}

void LayerRunner::ExpertLinear(const Context& context, const LayerWeights& weights,
                               const Step& step, const float* in, float* out) const {
  const int64_t in_width = width(step.in);
  const int64_t out_width = width(step.out);
  for (int64_t e = 0; e < config_.experts; ++e) {
    const int64_t begin = routing_.begin[static_cast<size_t>(e)];
    const int64_t count = routing_.begin[static_cast<size_t>(e) + 1] - begin;
    if (count == 0) continue;
    Linear(context, weights.at({step.weight, e}), in + begin * in_width, in_width, count,
           precision_, out + begin * out_width);
  }
}

// Each token's rows in the order of the experts, whatever the routing was made from; rows without
// weight are left out, so that what an expert makes of tokens that are not its own cannot matter.
void LayerRunner::SumExperts(const Context& context, const float* in, float* out) const {
  const auto tokens = static_cast<size_t>(tokens_);
  std::vector<int64_t> begin(tokens + 1);
  for (size_t row = 0; row < routing_.token.size(); ++row) {
    if (routing_.weight[row] != 0) ++begin[static_cast<size_t>(routing_.token[row]) + 1];
  }
  for (size_t t = 0; t < tokens; ++t) begin[t + 1] += begin[t];
  std::vector<int64_t> row_of(static_cast<size_t>(begin.back()));
  std::vector<int64_t> next(begin.begin(), begin.end() - 1);
  for (size_t row = 0; row < routing_.token.size(); ++row) {
    if (routing_.weight[row] == 0) continue;
    int64_t& at = next[static_cast<size_t>(routing_.token[row])];
    row_of[static_cast<size_t>(at++)] = static_cast<int64_t>(row);
  }
  const int64_t n = config_.hidden_size;
  ForRowBlocks(context, tokens_, [&](int64_t first, int64_t last) {
    std::fill(out + first * n, out + last * n, 0.0f);
    for (int64_t t = first; t < last; ++t) {
      const auto token = static_cast<size_t>(t);
      for (int64_t i = begin[token]; i < begin[token + 1]; ++i) {
        const int64_t row = row_of[static_cast<size_t>(i)];
        AddScaledRow(in + row * n, routing_.weight[static_cast<size_t>(row)], n, out + t * n);
      }
    }
  });
}

}  // namespace pennyweight
