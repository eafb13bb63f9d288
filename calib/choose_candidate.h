// Which of several ways to quantize a layer is kept.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace pennyweight {

// What a candidate misses on each held-out window: squared differences of the layer's outputs in
// the quantized and the original model, |Y - Y'|^2, each token's divided by its |Y|^2, summed.
// Tokens count alike, because the norm in front of the next layer makes them alike.
using WindowErrors = std::vector<double>;

// Standard errors by which a challenger's mean error has to be below the incumbent's.
inline constexpr double kCandidateMargin = 1.0;

// True when the challenger misses less, and by more than the noise of the windows: the mean of the
// paired differences is below minus kCandidateMargin of its standard errors. With one window its
// difference decides. Both are of the same windows.
bool Beats(std::span<const double> challenger, std::span<const double> incumbent);

// Adds one window's error: want, got [tokens, width].
double WindowError(const float* want, const float* got, int64_t tokens, int64_t width);

}  // namespace pennyweight
