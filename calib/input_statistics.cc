#include "calib/input_statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "lib/checked.h"
#include "lib/linalg.h"
#include "lib/parallel.h"
#include "quant/shrink_hessian.h"

namespace pennyweight {

InputStatistics::InputStatistics(int64_t k, int64_t heldout_tokens, bool with_drift,
                                 std::optional<PanelMatrix> panels)
    : k_(k),
      heldout_stride_(std::max<int64_t>(1, CeilDiv(heldout_tokens, kHeldOutRows))),
      with_drift_(with_drift && k <= kMaxDriftWidth && !panels),
      h_(panels ? 0 : static_cast<size_t>(k * k)),
      panels_(std::move(panels)),
      drift_(with_drift_ ? h_.size() : 0) {
  const auto heldout = static_cast<size_t>(CeilDiv(heldout_tokens, heldout_stride_) * k);
  heldout_.reserve(heldout);
  heldout_original_.reserve(heldout);
}

uint64_t InputStatistics::Bytes(int64_t k, int64_t heldout_tokens, bool with_drift,
                                bool in_panels) {
  const int64_t squares = in_panels ? 0 : with_drift && k <= kMaxDriftWidth ? 2 : 1;
  const int64_t rows =
      heldout_tokens > 0 ? std::min(heldout_tokens, kHeldOutRows) : 2 * kHeldOutRows;
  return static_cast<uint64_t>((squares * k + 2 * rows) * k) * sizeof(float);
}

Status InputStatistics::Add(const Context& context, const float* x, const float* original,
                            int64_t tokens) {
  tokens_ += tokens;
  if (panels_) return panels_->AddProduct(context, tokens, x, k_, Precision::kBf16);
  SyrkUpper(context, tokens, k_, x, k_, h_.data(), k_, Precision::kBf16);
  if (drift_.empty()) return OkStatus();
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
  return OkStatus();
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

Result<std::vector<float>> InputStatistics::Diagonal() const {
  if (panels_) return panels_->Diagonal();
  std::vector<float> diagonal;
  for (int64_t i = 0; i < k_; ++i) diagonal.push_back(h_[static_cast<size_t>(i * k_ + i)]);
  return diagonal;
}

Result<double> InputStatistics::MeanDiagonal(const Context& context) {
  const float scale = 1.0f / static_cast<float>(std::max<int64_t>(1, tokens_));
  if (panels_) {
    PW_TRY(panels_->ScaleAndAdd(context, scale, 0));
  } else {
    for (int64_t i = 0; i < k_; ++i) {
      for (int64_t j = i; j < k_; ++j) h_[static_cast<size_t>(i * k_ + j)] *= scale;
    }
  }
  PW_ASSIGN(const std::vector<float> diagonal, Diagonal());
  double mean = std::accumulate(diagonal.begin(), diagonal.end(), 0.0);
  for (float& d : drift_) d *= scale;
  if (!drift_.empty()) {
    // Not finite where the original model's activations were not.
    for (int64_t i = 0; i < k_; ++i) mean += 0 * double{drift_[static_cast<size_t>(i * k_ + i)]};
  }
  mean /= static_cast<double>(k_);
  if (std::isfinite(mean) && heldout_finite_) return mean;
  return Error(ErrorCode::kNonFinite, "the model's activations are not finite");
}

Status InputStatistics::FixMoments(const Context& context) {
  PW_ASSIGN(const double mean, MeanDiagonal(context));
  const double lambda = mean > 0 ? kMaxDamp * mean : 1.0;
  PW_ASSIGN(importance_, Diagonal());
  for (float& v : importance_) v += static_cast<float>(lambda);
  return OkStatus();
}

void InputStatistics::Clear() {
  if (panels_) panels_->Clear();
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

Result<double> InputStatistics::Shrink(const Context& context, const float* prior) {
  Shrinkage few;
  if (panels_) {
    PW_ASSIGN(few, ShrinkHessian(context, &*panels_, tokens_));
  } else {
    few = ShrinkHessian(context, h_.data(), k_, tokens_, prior);
  }
  for (float& d : drift_) d *= static_cast<float>(1 - few.intensity);
  PW_ASSIGN(const std::vector<float> diagonal, Diagonal());
  return std::accumulate(diagonal.begin(), diagonal.end(), 0.0) / static_cast<double>(k_);
}

Status InputStatistics::Damp(const Context& context, float lambda, float rest) {
  const auto damp_row = [&](float* row, int64_t i, int64_t first, int64_t columns) {
    for (int64_t c = 0; c < columns; ++c) row[c] = first + c == i ? row[c] + lambda : row[c] * rest;
  };
  if (panels_) {
    return panels_->VisitRows(context, true, [&](const PanelMatrix::Panel& panel, int64_t r) {
      damp_row(panel.data + r * panel.columns, panel.row + r, panel.column, panel.columns);
    });
  }
  for (int64_t i = 0; i < k_; ++i) damp_row(h_.data() + i * k_ + i, i, i, k_ - i);
  return OkStatus();
}

Result<bool> InputStatistics::Factor(const Context& context, double damp, double shrink,
                                     const float* prior) {
  PW_ASSIGN(double mean, MeanDiagonal(context));
  if (prior != nullptr || tokens_ < kFewTokens * k_) {
    PW_ASSIGN(mean, Shrink(context, prior));
  }
  // An input that is zero on every token still needs a positive definite matrix.
  const double lambda = mean > 0 ? damp * mean : 1.0;
  damp_ = damp;
  shrink_ = shrink;
  added_.assign(static_cast<size_t>(k_), lambda);
  PW_TRY(Damp(context, static_cast<float>(lambda), static_cast<float>(1 - shrink)));
  PW_ASSIGN(importance_, Diagonal());
  bool factored = false;
  if (panels_) {
    PW_ASSIGN(factored, panels_->Factor(context));
  } else {
    factored = FactorUpper(context, k_, h_.data(), k_);
  }
  if (!factored) {
    Clear();
    return false;
  }
  if (!drift_.empty()) SolveUpper(context, k_, k_, h_.data(), drift_.data());
  return true;
}

Status InputStatistics::Rescale(const Context& context, std::span<const float> scale) {
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
    if (panels_) continue;
    float* r = h_.data() + i * scale.size();
    for (size_t j = i; j < scale.size(); ++j) r[j] /= scale[i];
    if (drift_.empty()) continue;
    float* c = drift_.data() + i * scale.size();
    for (size_t j = 0; j < scale.size(); ++j) c[j] *= scale[j] / scale[i];
  }
  if (!panels_) return OkStatus();
  return panels_->VisitRows(context, true, [&](const PanelMatrix::Panel& panel, int64_t r) {
    float* row = panel.data + r * panel.columns;
    for (int64_t c = 0; c < panel.columns; ++c) row[c] /= scale[static_cast<size_t>(panel.row + r)];
  });
}

std::optional<FactorAttempt> NextAttempt(const FactorAttempt& failed) {
  if (failed.shrink > 0) return std::nullopt;
  if (failed.damp < kMaxDamp) return FactorAttempt{std::min(2 * failed.damp, kMaxDamp), 0};
  return FactorAttempt{kMaxDamp, 0.5};
}

Result<double> NormThroughFactor(const Context& context, const float* m, int64_t rows,
                                 const FactorView& r) {
  constexpr int64_t kPanel = 256;
  const int64_t k = r.k();
  std::vector<float> buffer, panel(static_cast<size_t>(rows * std::min(kPanel, k)));
  double sum = 0;
  for (int64_t begin = 0; begin < k; begin += kPanel) {
    const int64_t width = std::min(kPanel, k - begin);
    PW_ASSIGN(const FactorView::Strip strip,
              r.Read(context, 0, begin + width, begin, width, &buffer));
    // R is zero below the diagonal: only its rows above the panel's end count.
    GemmNnArgs args;
    args.m = rows;
    args.n = width;
    args.k = begin + width;
    args.a = m;
    args.a_stride = k;
    args.b = strip.data;
    args.b_stride = strip.stride;
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
