#include "lib/statistics.h"

#include <doctest/doctest.h>

#include <cmath>
#include <random>

namespace pennyweight {
namespace {

InputSums RandomSums(std::vector<std::string> weights, int64_t width, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0.1, 9);
  InputSums sums;
  sums.weights = std::move(weights);
  sums.width = width;
  sums.tokens = 10 + seed;
  for (int64_t i = 0; i < width; ++i) {
    sums.sum_sq.push_back(uniform(random));
    sums.sum.push_back(uniform(random) - 5);
    sums.sum_abs.push_back(uniform(random));
    sums.max_abs.push_back(static_cast<float>(uniform(random)));
  }
  return sums;
}

TEST_CASE("statistics: inputs of the same matrices are added up") {
  Statistics a, b;
  a.model = b.model = "m";
  a.windows = 3;
  b.windows = 4;
  a.inputs = {RandomSums({"q", "k"}, 5, 1), RandomSums({"down"}, 3, 2)};
  b.inputs = {RandomSums({"q", "k"}, 5, 3), RandomSums({"head"}, 2, 4)};
  const InputSums qa = a.inputs[0], qb = b.inputs[0], down = a.inputs[1];
  REQUIRE(AddStatistics(b, &a).ok());
  REQUIRE(a.inputs.size() == 3);
  CHECK(a.windows == 7);
  CHECK(a.inputs[0].weights == std::vector<std::string>{"q", "k"});
  CHECK(a.inputs[0].tokens == qa.tokens + qb.tokens);
  for (size_t i = 0; i < 5; ++i) {
    CHECK(a.inputs[0].sum_sq[i] == qa.sum_sq[i] + qb.sum_sq[i]);
    CHECK(a.inputs[0].sum[i] == qa.sum[i] + qb.sum[i]);
    CHECK(a.inputs[0].sum_abs[i] == qa.sum_abs[i] + qb.sum_abs[i]);
    CHECK(a.inputs[0].max_abs[i] == std::max(qa.max_abs[i], qb.max_abs[i]));
  }
  CHECK(a.inputs[1].sum_sq == down.sum_sq);
  CHECK(a.inputs[2].weights.front() == "head");
}

TEST_CASE("statistics: an imatrix, one entry per matrix, is added to shared inputs") {
  Statistics shared, single;
  shared.inputs = {RandomSums({"q", "k"}, 4, 1)};
  single.inputs = {RandomSums({"k"}, 4, 2), RandomSums({"q"}, 4, 3)};
  for (InputSums& input : single.inputs) {
    input.sum.clear();
    input.sum_abs.clear();
    input.max_abs.clear();
  }
  const InputSums before = shared.inputs[0];
  REQUIRE(AddStatistics(single, &shared).ok());
  REQUIRE(shared.inputs.size() == 2);
  const auto index = IndexByWeight(shared);
  for (size_t n = 0; n < 2; ++n) {
    const InputSums& input = shared.inputs[index.at(n == 0 ? "k" : "q")];
    CHECK_FALSE(input.HasMoments());
    CHECK(input.tokens == before.tokens + single.inputs[n].tokens);
    for (size_t i = 0; i < 4; ++i) {
      CHECK(input.sum_sq[i] == before.sum_sq[i] + single.inputs[n].sum_sq[i]);
    }
  }
}

TEST_CASE("statistics: widths and models that differ are refused") {
  Statistics a, b;
  a.inputs = {RandomSums({"q"}, 4, 1)};
  b.inputs = {RandomSums({"q"}, 5, 2)};
  const Status widths = AddStatistics(b, &a);
  REQUIRE_FALSE(widths.ok());
  CHECK(widths.error().code == ErrorCode::kInvalidTensor);
  CHECK(widths.error().tensor == "q");
  b.inputs = a.inputs;
  a.model = "one";
  b.model = "another";
  const Status models = AddStatistics(b, &a);
  REQUIRE_FALSE(models.ok());
  CHECK(models.error().code == ErrorCode::kConfigInvalid);
}

TEST_CASE("statistics: importance is the mean square, never nothing beside something") {
  InputSums sums = RandomSums({"q"}, 64, 5);
  sums.sum_sq[7] = 0;
  const auto importance = ImportanceOf(sums);
  REQUIRE(importance.has_value());
  for (size_t i = 0; i < 64; ++i) {
    if (i == 7) continue;
    const double want = sums.sum_sq[i] / sums.sum_sq[0];
    CHECK(static_cast<double>((*importance)[i] / (*importance)[0]) ==
          doctest::Approx(want).epsilon(1e-5));
  }
  CHECK((*importance)[7] > 0);
  CHECK((*importance)[7] < 1e-4f * (*importance)[0]);

  InputSums unseen = sums;
  unseen.tokens = 0;
  CHECK_FALSE(ImportanceOf(unseen).has_value());
  InputSums dead = sums;
  std::fill(dead.sum_sq.begin(), dead.sum_sq.end(), 0.0);
  CHECK_FALSE(ImportanceOf(dead).has_value());
}

}  // namespace
}  // namespace pennyweight
