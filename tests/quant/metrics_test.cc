#include "quant/metrics.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "hwy/highway.h"
#include "tests/quant/matrices.h"

namespace pennyweight {
namespace {

TEST_CASE("metrics of a known pair") {
  const float w[] = {3, 0, -4, 0, 0};
  const float v[] = {3, 1, -2, 0, 0};
  WeightError error;
  error.Add(w, v, 5);
  CHECK(error.sum_sq == doctest::Approx(25));
  CHECK(error.sum_sq_error == doctest::Approx(5));
  CHECK(error.RelMse() == doctest::Approx(0.2));
  CHECK(error.SqnrDb() == doctest::Approx(10 * std::log10(5.0)));
  CHECK(error.Cosine() == doctest::Approx(17 / std::sqrt(25.0 * 14.0)));
  CHECK(error.max_abs_error == doctest::Approx(2));
  CHECK(error.count == 5);
}

TEST_CASE("exact, zero and one-sided pairs") {
  const float w[] = {1, 2};
  const float zero[] = {0, 0};
  WeightError exact, nothing, lost, invented;
  exact.Add(w, w, 2);
  nothing.Add(zero, zero, 2);
  lost.Add(w, zero, 2);
  invented.Add(zero, w, 2);
  CHECK(exact.RelMse() == 0);
  CHECK(std::isinf(exact.SqnrDb()));
  CHECK(exact.Cosine() == doctest::Approx(1));
  CHECK(nothing.RelMse() == 0);
  CHECK(nothing.Cosine() == 1);
  CHECK(lost.RelMse() == doctest::Approx(1));
  CHECK(lost.Cosine() == 0);
  CHECK(std::isinf(invented.RelMse()));
}

TEST_CASE("parts merge to the whole") {
  const std::vector<float> w = RandomWeights(1001, 1);
  std::vector<float> v = w;
  for (size_t i = 0; i < v.size(); ++i) v[i] += (i % 7 == 0) ? 0.01f : -0.002f;
  WeightError whole, first, second;
  whole.Add(w.data(), v.data(), 1001);
  first.Add(w.data(), v.data(), 400);
  second.Add(w.data() + 400, v.data() + 400, 601);
  first.Merge(second);
  CHECK(first.RelMse() == doctest::Approx(whole.RelMse()));
  CHECK(first.Cosine() == doctest::Approx(whole.Cosine()));
  CHECK(first.max_abs_error == whole.max_abs_error);
  CHECK(first.count == whole.count);
}

double SumChains(const double* c) {
  return ((c[0] + c[4]) + (c[2] + c[6])) + ((c[1] + c[5]) + (c[3] + c[7]));
}

TEST_CASE("sums are those of eight chains in plain code, to the bit, on every target") {
  for (const int64_t n : {0, 1, 7, 8, 9, 64, 4099}) {
    const std::vector<float> w = RandomWeights(n + 1, 100 + static_cast<uint32_t>(n));
    std::vector<float> v = RandomWeights(n + 1, 200 + static_cast<uint32_t>(n), 0.001f);
    for (size_t i = 0; i < v.size(); ++i) v[i] += w[i];
    double sq[8] = {}, sq_hat[8] = {}, error[8] = {}, dot = 0, largest = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double a = w[static_cast<size_t>(i + 1)], b = v[static_cast<size_t>(i + 1)];
      sq[i % 8] += a * a;
      sq_hat[i % 8] += b * b;
      error[i % 8] += (a - b) * (a - b);
      dot += a * b;
      largest = std::max(largest, std::abs(a - b));
    }
    for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
      hwy::SetSupportedTargetsForTest(target);
      CAPTURE(hwy::TargetName(target));
      CAPTURE(n);
      WeightError got;
      got.Add(w.data() + 1, v.data() + 1, n);  // not aligned
      CHECK(got.sum_sq == SumChains(sq));
      CHECK(got.sum_sq_hat == SumChains(sq_hat));
      CHECK(got.sum_sq_error == SumChains(error));
      CHECK(got.max_abs_error == largest);
      CHECK(std::abs(got.sum_dot - dot) <= 1e-12 * SumChains(sq));
      CHECK(got.count == n);
    }
    hwy::SetSupportedTargetsForTest(0);
  }
}

}  // namespace
}  // namespace pennyweight
