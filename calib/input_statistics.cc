#include "calib/input_statistics.h"

#include <algorithm>
#include <cmath>

#include "lib/checked.h"
#include "lib/linalg.h"
#include "lib/parallel.h"

namespace pennyweight {

InputStatistics::InputStatistics(int64_t k, int64_t heldout_tokens, bool with_drift)
    : k_(k),
      heldout_stride_(std::max<int64_t>(1, CeilDiv(heldout_tokens, kHeldOutRows))),
      h_(static_cast<size_t>(k * k)),
      drift_(with_drift ? h_.size() : 0) {
  const auto heldout = static_cast<size_t>(CeilDiv(heldout_tokens, heldout_stride_) * k);
  heldout_.reserve(heldout);
  heldout_original_.reserve(heldout);
}

void InputStatistics::Add(const Context& context, const float* x, const float* original,
                          int64_t tokens) {
  SyrkUpper(context, tokens, k_, x, k_, h_.data(), k_, Precision::kBf16);
  tokens_ += tokens;
  if (drift_.empty()) return;
  constexpr int64_t kColumns = 64;
  drift_transposed_.resize(static_cast<size_t>(tokens * k_));
  ParallelFor(context, CeilDiv(k_, kColumns), [&](int64_t block) {
    const int64_t begin = block * kColumns, end = std::min(k_, begin + kColumns);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t c = begin; c < end; ++c) {
        drift_transposed_[static_cast<size_t>(c * tokens + t)] =
            original[t * k_ + c] - x[t * k_ + c];
      }
    }
  });
  GemmNnArgs args;
  args.m = args.n = k_;
  args.k = tokens;
  args.a = drift_transposed_.data();
  args.a_stride = tokens;
  args.b = x;
  args.b_stride = k_;
  args.c = drift_.data();
  args.c_stride = k_;
  args.accumulate = true;
  GemmNn(context, args);
}

void InputStatistics::AddHeldOut(const float* x, const float* original, int64_t tokens) {
  for (int64_t t = 0; t < tokens; ++t, ++heldout_seen_) {
    if (heldout_seen_ % heldout_stride_ != 0) continue;
    heldout_.insert(heldout_.end(), x + t * k_, x + (t + 1) * k_);
    heldout_original_.insert(heldout_original_.end(), original + t * k_, original + (t + 1) * k_);
    ++heldout_rows_;
  }
}

Result<bool> InputStatistics::Factor(const Context& context, double damp) {
  const float scale = 1.0f / static_cast<float>(std::max<int64_t>(1, tokens_));
  double mean = 0;
  for (int64_t i = 0; i < k_; ++i) {
    float* row = h_.data() + i * k_;
    for (int64_t j = i; j < k_; ++j) row[j] *= scale;
    mean += row[i];
  }
  mean /= static_cast<double>(k_);
  if (!std::isfinite(mean)) {
    return Error(ErrorCode::kNonFinite, "the model's activations are not finite");
  }
  // An input that is zero on every token still needs a positive definite matrix.
  lambda_ = mean > 0 ? damp * mean : 1.0;
  damp_ = damp;
  importance_.resize(static_cast<size_t>(k_));
  for (int64_t i = 0; i < k_; ++i) {
    float& diagonal = h_[static_cast<size_t>(i * k_ + i)];
    diagonal += static_cast<float>(lambda_);
    importance_[static_cast<size_t>(i)] = diagonal;
  }
  if (!FactorUpper(context, k_, h_.data(), k_)) {
    std::fill(h_.begin(), h_.end(), 0.0f);
    std::fill(drift_.begin(), drift_.end(), 0.0f);
    heldout_.clear();
    heldout_original_.clear();
    heldout_rows_ = heldout_seen_ = tokens_ = 0;
    return false;
  }
  if (!drift_.empty()) {
    for (float& d : drift_) d *= scale;
    SolveUpper(context, k_, k_, h_.data(), drift_.data());
  }
  return true;
}

double NormThroughFactor(const Context& context, const float* m, int64_t rows, int64_t k,
                         const float* r) {
  constexpr int64_t kPanel = 256;
  std::vector<float> panel(static_cast<size_t>(rows * std::min(kPanel, k)));
  double sum = 0;
  for (int64_t begin = 0; begin < k; begin += kPanel) {
    const int64_t width = std::min(kPanel, k - begin);
    // R is zero below the diagonal: only its rows above the panel's end count.
    GemmNnArgs args;
    args.m = rows;
    args.n = width;
    args.k = begin + width;
    args.a = m;
    args.a_stride = k;
    args.b = r + begin;
    args.b_stride = k;
    args.c = panel.data();
    args.c_stride = width;
    GemmNn(context, args);
    for (int64_t i = 0; i < rows * width; ++i) {
      const double v = panel[static_cast<size_t>(i)];
      sum += v * v;
    }
  }
  return sum;
}

}  // namespace pennyweight
