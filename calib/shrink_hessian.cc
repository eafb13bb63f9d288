#include "calib/shrink_hessian.h"

#include <algorithm>

namespace pennyweight {
namespace {

double Trace(int64_t k, const float* h) {
  double trace = 0;
  for (int64_t i = 0; i < k; ++i) trace += h[i * k + i];
  return trace;
}

}  // namespace

double ShrinkHessian(int64_t k, int64_t tokens, const float* prior, float* h) {
  if (tokens == 0 && prior != nullptr) {
    for (int64_t i = 0; i < k; ++i) std::copy_n(prior + i * k + i, k - i, h + i * k + i);
    return 1;
  }
  const double trace = Trace(k, h);
  const double prior_trace = prior == nullptr ? trace : Trace(k, prior);
  const double fit = prior_trace > 0 ? trace / prior_trace : 0;
  const auto target = [&](int64_t i, int64_t j) -> double {
    if (prior != nullptr) return fit * prior[i * k + j];
    return i == j ? h[i * k + j] : 0.0;
  };
  double square = 0, distance = 0;  // |h|^2, |h - P|^2, of the whole symmetric matrices
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = i; j < k; ++j) {
      const double times = i == j ? 1 : 2;
      const double v = h[i * k + j];
      square += times * v * v;
      distance += times * (v - target(i, j)) * (v - target(i, j));
    }
  }
  const double variance =
      (square + trace * trace) / static_cast<double>(std::max<int64_t>(1, tokens));
  const double t = distance > 0 ? std::min(1.0, variance / distance) : 0;
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = i; j < k; ++j) {
      h[i * k + j] = static_cast<float>((1 - t) * h[i * k + j] + t * target(i, j));
    }
  }
  return t;
}

}  // namespace pennyweight
