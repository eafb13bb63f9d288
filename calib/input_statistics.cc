#include "calib/input_statistics.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "lib/checked.h"
#include "lib/linalg.h"
#include "lib/parallel.h"
#include "quant/shrink_hessian.h"

namespace pennyweight {

InputStatistics::InputStatistics(int64_t k, int64_t heldout_tokens, bool with_drift)
    : k_(k),
      heldout_stride_(std::max<int64_t>(1, CeilDiv(heldout_tokens, kHeldOutRows))),
      with_drift_(with_drift && k <= kMaxDriftWidth),
      h_(static_cast<size_t>(k * k)),
      drift_(with_drift_ ? h_.size() : 0) {
  const auto heldout = static_cast<size_t>(CeilDiv(heldout_tokens, heldout_stride_) * k);
  heldout_.reserve(heldout);
  heldout_original_.reserve(heldout);
}

uint64_t InputStatistics::Bytes(int64_t k, int64_t heldout_tokens, bool with_drift) {
  const int64_t squares = with_drift && k <= kMaxDriftWidth ? 2 : 1;
  const int64_t rows =
      heldout_tokens > 0 ? std::min(heldout_tokens, kHeldOutRows) : 2 * kHeldOutRows;
  return static_cast<uint64_t>((squares * k + 2 * rows) * k) * sizeof(float);
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
    for (int64_t c = t * k_; c < (t + 1) * k_; ++c) {
      if (!std::isfinite(x[c]) || !std::isfinite(original[c])) heldout_finite_ = false;
    }
    heldout_.insert(heldout_.end(), x + t * k_, x + (t + 1) * k_);
    heldout_original_.insert(heldout_original_.end(), original + t * k_, original + (t + 1) * k_);
    if (++heldout_rows_ == 2 * kHeldOutRows) KeepEverySecondRow();
  }
}

void InputStatistics::KeepEverySecondRow() {
  heldout_stride_ *= 2;
  heldout_rows_ /= 2;
  for (std::vector<float>* rows : {&heldout_, &heldout_original_}) {
    for (int64_t r = 1; r < heldout_rows_; ++r) {
      std::copy_n(rows->begin() + 2 * r * k_, k_, rows->begin() + r * k_);
    }
    rows->resize(static_cast<size_t>(heldout_rows_ * k_));
  }
}

void InputStatistics::SetHessian(int64_t tokens, std::vector<float> h) {
  h_ = std::move(h);
  tokens_ = tokens;
}

Result<double> InputStatistics::MeanDiagonal() {
  const float scale = 1.0f / static_cast<float>(std::max<int64_t>(1, tokens_));
  double mean = 0;
  for (int64_t i = 0; i < k_; ++i) {
    float* row = h_.data() + i * k_;
    for (int64_t j = i; j < k_; ++j) row[j] *= scale;
    mean += row[i];
  }
  for (float& d : drift_) d *= scale;
  if (!drift_.empty()) {
    // Not finite where the original model's activations were not.
    for (int64_t i = 0; i < k_; ++i) mean += 0 * double{drift_[static_cast<size_t>(i * k_ + i)]};
  }
  mean /= static_cast<double>(k_);
  if (std::isfinite(mean) && heldout_finite_) return mean;
  return Error(ErrorCode::kNonFinite, "the model's activations are not finite");
}

Status InputStatistics::FixMoments() {
  PW_ASSIGN(const double mean, MeanDiagonal());
  const double lambda = mean > 0 ? kMaxDamp * mean : 1.0;
  importance_.resize(static_cast<size_t>(k_));
  for (int64_t i = 0; i < k_; ++i) {
    importance_[static_cast<size_t>(i)] =
        h_[static_cast<size_t>(i * k_ + i)] + static_cast<float>(lambda);
  }
  return OkStatus();
}

void InputStatistics::Clear() {
  std::fill(h_.begin(), h_.end(), 0.0f);
  std::fill(drift_.begin(), drift_.end(), 0.0f);
  heldout_.clear();
  heldout_original_.clear();
  heldout_rows_ = heldout_seen_ = tokens_ = 0;
}

void InputStatistics::AddSums(float* sums) const {
  for (int64_t i = 0; i < k_; ++i) {
    for (int64_t j = i; j < k_; ++j) sums[i * k_ + j] += h_[static_cast<size_t>(i * k_ + j)];
  }
}

Result<bool> InputStatistics::Factor(const Context& context, double damp, double shrink,
                                     const float* prior) {
  PW_ASSIGN(double mean, MeanDiagonal());
  if (prior != nullptr || tokens_ < kFewTokens * k_) {
    // What is not known of the moments is not known of the drift either.
    const Shrinkage few = ShrinkHessian(context, h_.data(), k_, tokens_, prior);
    for (float& d : drift_) d *= static_cast<float>(1 - few.intensity);
    mean = 0;
    for (int64_t i = 0; i < k_; ++i) mean += h_[static_cast<size_t>(i * k_ + i)];
    mean /= static_cast<double>(k_);
  }
  // An input that is zero on every token still needs a positive definite matrix.
  const double lambda = mean > 0 ? damp * mean : 1.0;
  damp_ = damp;
  shrink_ = shrink;
  added_.assign(static_cast<size_t>(k_), lambda);
  importance_.resize(static_cast<size_t>(k_));
  const auto rest = static_cast<float>(1 - shrink);
  for (int64_t i = 0; i < k_; ++i) {
    float* row = h_.data() + i * k_;
    row[i] += static_cast<float>(lambda);
    importance_[static_cast<size_t>(i)] = row[i];
    if (shrink <= 0) continue;
    for (int64_t j = i + 1; j < k_; ++j) row[j] *= rest;
  }
  if (!FactorUpper(context, k_, h_.data(), k_)) {
    Clear();
    return false;
  }
  if (!drift_.empty()) SolveUpper(context, k_, k_, h_.data(), drift_.data());
  return true;
}

void InputStatistics::Rescale(std::span<const float> scale) {
  const auto divide = [&](std::vector<float>* rows) {
    for (size_t i = 0; i < rows->size(); ++i) (*rows)[i] /= scale[i % scale.size()];
  };
  divide(&heldout_);
  divide(&heldout_original_);
  for (size_t i = 0; i < scale.size(); ++i) {
    const float square = scale[i] * scale[i];
    importance_[i] /= square;
    if (!added_.empty()) added_[i] /= static_cast<double>(square);
    // R' = S^-1 R, and C' = S^-1 C S.
    float* r = h_.data() + i * scale.size();
    for (size_t j = i; j < scale.size(); ++j) r[j] /= scale[i];
    if (drift_.empty()) continue;
    float* c = drift_.data() + i * scale.size();
    for (size_t j = 0; j < scale.size(); ++j) c[j] *= scale[j] / scale[i];
  }
}

std::optional<FactorAttempt> NextAttempt(const FactorAttempt& failed) {
  if (failed.shrink > 0) return std::nullopt;
  if (failed.damp < kMaxDamp) return FactorAttempt{std::min(2 * failed.damp, kMaxDamp), 0};
  return FactorAttempt{kMaxDamp, 0.5};
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
