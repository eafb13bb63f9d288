#include "quant/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace pennyweight {

void WeightError::Add(const float* w, const float* w_hat, int64_t n) {
  // Four independent chains keep the sums in fixed order and the loop fast.
  double sq[4] = {}, sq_hat[4] = {}, dot[4] = {}, err[4] = {};
  double max_err = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double a = w[i];
    const double b = w_hat[i];
    const double e = a - b;
    const int64_t lane = i & 3;
    sq[lane] += a * a;
    sq_hat[lane] += b * b;
    dot[lane] += a * b;
    err[lane] += e * e;
    max_err = std::max(max_err, std::abs(e));
  }
  sum_sq += (sq[0] + sq[1]) + (sq[2] + sq[3]);
  sum_sq_hat += (sq_hat[0] + sq_hat[1]) + (sq_hat[2] + sq_hat[3]);
  sum_dot += (dot[0] + dot[1]) + (dot[2] + dot[3]);
  sum_sq_error += (err[0] + err[1]) + (err[2] + err[3]);
  max_abs_error = std::max(max_abs_error, max_err);
  count += n;
}

void WeightError::Merge(const WeightError& other) {
  sum_sq += other.sum_sq;
  sum_sq_hat += other.sum_sq_hat;
  sum_dot += other.sum_dot;
  sum_sq_error += other.sum_sq_error;
  max_abs_error = std::max(max_abs_error, other.max_abs_error);
  count += other.count;
}

double WeightError::RelMse() const {
  if (sum_sq_error == 0) return 0;
  return sum_sq > 0 ? sum_sq_error / sum_sq : std::numeric_limits<double>::infinity();
}

double WeightError::SqnrDb() const {
  if (sum_sq_error == 0) return std::numeric_limits<double>::infinity();
  return -10.0 * std::log10(RelMse());
}

double WeightError::Cosine() const {
  if (sum_sq == 0 && sum_sq_hat == 0) return 1;
  if (sum_sq == 0 || sum_sq_hat == 0) return 0;
  return sum_dot / std::sqrt(sum_sq * sum_sq_hat);
}

}  // namespace pennyweight
