// Second moments from few tokens, made steadier by what is known from elsewhere.
#pragma once

#include <cstdint>

namespace pennyweight {

// h[k, k], upper triangle: mean of x x^T over `tokens` rows, becomes (1 - t) h + t P; t is
// returned. P is `prior` (upper triangle, second moments of a related input up to a factor, which
// is made to fit the trace of h), or with nullptr the diagonal of h. Without tokens h becomes the
// prior as it is. t is the one with the least expected squared distance to the moments behind the
// tokens, E|S - h|^2 / |h - P|^2, at most 1, where for rows of a normal distribution E|S - h|^2 =
// (|h|^2 + tr(h)^2) / tokens: Ledoit and Wolf 2004 (J. Multivariate Analysis 88) with the variance
// of Chen et al. 2010 (arXiv 0907.4698). Everything is summed in double precision.
double ShrinkHessian(int64_t k, int64_t tokens, const float* prior, float* h);

}  // namespace pennyweight
