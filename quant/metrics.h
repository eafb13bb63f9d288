// Error between a matrix and its decoded form, accumulated over row tiles in double precision.
#pragma once

#include <cstdint>

namespace pennyweight {

struct WeightError {
  double sum_sq = 0;        // |W|^2
  double sum_sq_hat = 0;    // |W'|^2
  double sum_dot = 0;       // <W, W'>
  double sum_sq_error = 0;  // |W - W'|^2
  double max_abs_error = 0;
  int64_t count = 0;

  // Sums are taken in eight interleaved chains: the same on every instruction set.
  void Add(const float* w, const float* w_hat, int64_t n);
  void Merge(const WeightError& other);

  // |W - W'|^2 / |W|^2; 0 when both are zero.
  double RelMse() const;
  double SqnrDb() const;  // infinity when exact
  double Cosine() const;  // 1 when both are zero
};

}  // namespace pennyweight
