// What calibration learns of one input of the model: its Hessian over the calibration tokens, how
// it has drifted from the original model's, and some held-out rows that nothing is fitted to.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "lib/context.h"
#include "lib/factor_view.h"
#include "lib/panel_matrix.h"
#include "lib/result.h"

namespace pennyweight {

class InputStatistics {
 public:
  // Held-out rows kept, evenly spaced over the held-out tokens: at most this many where their
  // number is known before, at most twice as many where it is not.
  static constexpr int64_t kHeldOutRows = 1024;
  // Wider inputs have no correction: its matrix is as large as the Hessian, and a matrix of this
  // width takes 1 GiB. Their Hessians are better kept in panels.
  static constexpr int64_t kMaxDriftWidth = 16384;
  static constexpr int64_t kFewTokens = 8;

  // Inputs of width k; `heldout_tokens` is how many AddHeldOut will see in all, 0 when nobody
  // knows. `with_drift`: a correction is wanted. `panels`: zeros of that width, in which H is kept
  // instead of in one array; there is no correction then.
  InputStatistics(int64_t k, int64_t heldout_tokens, bool with_drift,
                  std::optional<PanelMatrix> panels = std::nullopt);
  // Bytes that such statistics take in the end, beside `panels`.
  static uint64_t Bytes(int64_t k, int64_t heldout_tokens, bool with_drift, bool in_panels = false);

  // x[tokens, k]: this input in the model as quantized so far; original[tokens, k]: the same in the
  // original model. H += X^T X, and D += (X0 - X)^T X; without drift `original` is not read.
  // Errors: those of the panels.
  Status Add(const Context& context, const float* x, const float* original, int64_t tokens);
  void AddHeldOut(const float* x, const float* original, int64_t tokens);
  // Instead of Add: h[k, k], the upper triangle of X^T X over so many tokens. Precondition: no
  // drift, and no panels.
  void SetHessian(int64_t tokens, std::vector<float> h);

  // Fixes the second moments, then factors H + damp * mean(diag H) * I in place, after what stands
  // beside H's diagonal was made smaller by `shrink` (in [0, 1]; 1: nothing but the diagonal).
  // False when it failed (H is then lost: add everything again and call with more of either).
  // Errors: kNonFinite when an activation was NaN or infinite.
  // Before that H is shrunk (ShrinkHessian) where there are fewer than kFewTokens tokens for each
  // column, and always where there is a `prior`, [k, k], upper triangle, to shrink it towards (not
  // in panels).
  Result<bool> Factor(const Context& context, double damp, double shrink = 0,
                      const float* prior = nullptr);
  // Before that: adds the sums over tokens to sums[k, k], upper triangle. Precondition: no panels.
  void AddSums(float* sums) const;
  // Only fixes the second moments: importance() is valid then. Errors: kNonFinite.
  Status FixMoments(const Context& context);

  // After Factor or FixMoments: from now on these are the statistics of an input whose column c is
  // divided by scale[c], as folding a scale into the matrix makes it. H' = S^-1 H S^-1.
  // Errors: those of the panels.
  Status Rescale(const Context& context, std::span<const float> scale);

  int64_t k() const { return k_; }
  int64_t tokens() const { return tokens_; }
  bool with_drift() const { return with_drift_; }
  // After Factor: E[x_k^2] plus the damping that was added, so that a channel that was not seen
  // still counts a little.
  std::span<const float> importance() const { return importance_; }
  // After a successful Factor: R [k, k] upper triangular, (H + lambda I) / tokens = R R^T.
  FactorView r() const { return panels_ ? FactorView(*panels_) : FactorView(k_, h_.data()); }
  double damp() const { return damp_; }
  double shrink() const { return shrink_; }
  std::span<const double> added() const {
    return added_;
  }  // [k] what damping added to the diagonal

  // After a successful Factor with drift: C = D (H + lambda I)^-1, [k, k]. X (W + W C)^T is as near
  // to X0 W^T as a linear map can bring it: W + W C makes up for what the quantized layers before
  // this input changed. Qronos (arXiv 2505.11695) in its closed form. nullptr without drift.
  const float* correction() const { return drift_.empty() ? nullptr : drift_.data(); }

  // The same held-out tokens here and in the original model, both [heldout_rows, k].
  int64_t heldout_rows() const { return heldout_rows_; }
  const float* heldout() const { return heldout_.data(); }
  const float* heldout_original() const { return heldout_original_.data(); }

 private:
  int64_t k_;
  int64_t heldout_stride_;
  int64_t heldout_seen_ = 0;
  int64_t heldout_rows_ = 0;
  int64_t tokens_ = 0;
  double damp_ = 0;
  double shrink_ = 0;
  bool with_drift_;
  bool heldout_finite_ = true;
  std::vector<double> added_;
  std::vector<float> h_;  // empty where there are panels
  std::optional<PanelMatrix> panels_;
  std::vector<float> importance_;
  std::vector<float> heldout_;
  std::vector<float> heldout_original_;
  std::vector<float> drift_;             // D, then C; empty without drift
  std::vector<float> drift_transposed_;  // (X0 - X)^T of one Add

  // Sums over tokens become means. Errors: kNonFinite, those of the panels.
  Result<double> MeanDiagonal(const Context& context);
  Result<std::vector<float>> Diagonal() const;
  // What is not known of the moments of few tokens is not known of the drift either. The mean of
  // the diagonal after it.
  Result<double> Shrink(const Context& context, const float* prior);
  // H += lambda I, after what stands beside the diagonal was multiplied by `rest`.
  Status Damp(const Context& context, float lambda, float rest);
  void Clear();
  void KeepEverySecondRow();
};

// The damping that is tried first, and the last one, as parts of the mean of H's diagonal.
inline constexpr double kDamp = 0.01;
inline constexpr double kMaxDamp = 0.2;
// How hard a Hessian is tried to be factored: its damping is doubled up to kMaxDamp, then what
// stands beside its diagonal is halved.
struct FactorAttempt {
  double damp = kDamp;
  double shrink = 0;
};
// The attempt after one that failed; nothing when there is none left.
std::optional<FactorAttempt> NextAttempt(const FactorAttempt& failed);

// |M R|^2 (Frobenius) for m[rows, k], summed in double precision. Errors: those of r.
Result<double> NormThroughFactor(const Context& context, const float* m, int64_t rows,
                                 const FactorView& r);

}  // namespace pennyweight
