// Shrinkage of Hessians that few tokens were seen for: with fewer tokens than columns the sample
// finds correlations that are not there, and gptq would lean on them.
#pragma once

#include <cstdint>

#include "lib/context.h"
#include "lib/panel_matrix.h"
#include "lib/result.h"

namespace pennyweight {

struct Shrinkage {
  double intensity = 0;  // t in [0, 1]: H' = (1 - t) H + t target
  bool to_prior = false;
};

// The upper triangle (with diagonal) of h[k, k], the mean of x^T x over `tokens` tokens, becomes
// the mixture of itself and a target that is expected to be nearest to the true one:
//   its diagonal, or where that promises less, the correlations of `prior` (the upper triangle of a
//   positive semidefinite matrix, say the layer's mean over all experts; nullptr: none), at its own
//   diagonal.
// Distances are sums of squares over the correlations r beside the diagonal, so that no channel
// counts more for being large: t = V / D, V = sum (1 - r^2)^2 / tokens the sampling variance of the
// r (Pearson's, normal inputs), D = sum (r - target)^2 the distance from the target (Ledoit and
// Wolf 2004, J. Multivariate Analysis 88; for correlations Schaefer and Strimmer 2005,
// section 2.2). Normal, independent tokens are assumed: where texts repeat themselves fewer are
// worth as much.
//
// The diagonal stays; but columns of it that are zero, and all of it when there are no tokens, are
// taken from the prior (scaled to the trace of the others). Symmetric, positive semidefinite again.
Shrinkage ShrinkHessian(const Context& context, float* h, int64_t k, int64_t tokens,
                        const float* prior);
// The same without a prior, of a Hessian in panels. Errors: those of its scratch file;
// kInterrupted.
Result<Shrinkage> ShrinkHessian(const Context& context, PanelMatrix* h, int64_t tokens);

}  // namespace pennyweight
