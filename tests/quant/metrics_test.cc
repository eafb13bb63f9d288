#include "quant/metrics.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

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

}  // namespace
}  // namespace pennyweight
