#include "calib/shrink_hessian.h"

#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <vector>

namespace pennyweight {
namespace {

constexpr int64_t kWidth = 40;

// Rows of a normal distribution whose moments are known: x = z M, so H = M^T M.
struct Population {
  std::vector<float> mix;
  std::vector<double> moments;

  Population(unsigned seed, float own, const std::vector<float>& common) : mix(common) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, own);
    for (float& v : mix) v += normal(random);
    moments.resize(kWidth * kWidth);
    for (int64_t i = 0; i < kWidth; ++i) {
      for (int64_t j = 0; j < kWidth; ++j) {
        for (int64_t c = 0; c < kWidth; ++c) {
          moments[i * kWidth + j] += double{mix[c * kWidth + i]} * mix[c * kWidth + j];
        }
      }
    }
  }
  std::vector<float> Sample(int64_t tokens, unsigned seed) const {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 1);
    std::vector<float> h(kWidth * kWidth);
    for (int64_t t = 0; t < tokens; ++t) {
      std::vector<float> x(kWidth);
      for (int64_t c = 0; c < kWidth; ++c) {
        const float z = normal(random);
        for (int64_t i = 0; i < kWidth; ++i) x[i] += z * mix[c * kWidth + i];
      }
      for (int64_t i = 0; i < kWidth; ++i) {
        for (int64_t j = i; j < kWidth; ++j) {
          h[i * kWidth + j] += x[i] * x[j] / static_cast<float>(tokens);
        }
      }
    }
    return h;
  }
  double Distance(const std::vector<float>& h) const {
    double sum = 0;
    for (int64_t i = 0; i < kWidth; ++i) {
      for (int64_t j = i; j < kWidth; ++j) {
        const double miss = h[i * kWidth + j] - moments[i * kWidth + j];
        sum += (i == j ? 1 : 2) * miss * miss;
      }
    }
    return sum;
  }
};

std::vector<float> CommonMix() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> mix(kWidth * kWidth);
  for (float& v : mix) v = normal(random);
  return mix;
}

TEST_CASE("shrinking towards what experts have in common comes nearer to the truth") {
  const std::vector<float> common = CommonMix();
  const Population layer(2, 0, common), expert(3, 0.3f, common);
  const std::vector<float> prior = layer.Sample(20000, 4);
  for (const int64_t tokens : {4, 10, 20, 39}) {
    CAPTURE(tokens);
    double before = 0, after = 0;
    for (unsigned seed = 0; seed < 20; ++seed) {
      std::vector<float> h = expert.Sample(tokens, 100 + seed);
      before += expert.Distance(h);
      const double t = ShrinkHessian(kWidth, tokens, prior.data(), h.data());
      CHECK(t > 0.3);
      after += expert.Distance(h);
    }
    CHECK(after < 0.7 * before);
  }
  // With many tokens next to nothing changes.
  std::vector<float> h = expert.Sample(20000, 5);
  CHECK(ShrinkHessian(kWidth, 20000, prior.data(), h.data()) < 0.05);
}

TEST_CASE("shrinking towards the diagonal keeps it, and comes nearer to a diagonal truth") {
  std::vector<float> scales(kWidth * kWidth);
  for (int64_t i = 0; i < kWidth; ++i) scales[i * kWidth + i] = static_cast<float>(1 + i % 5);
  const Population population(6, 0, scales);
  const std::vector<float> sample = population.Sample(30, 7);
  std::vector<float> h = sample;
  ShrinkHessian(kWidth, 30, nullptr, h.data());
  CHECK(population.Distance(h) < 0.5 * population.Distance(sample));
  for (int64_t i = 0; i < kWidth; ++i) {
    CHECK(h[i * kWidth + i] == doctest::Approx(sample[i * kWidth + i]));
  }
}

TEST_CASE(
    "without tokens the prior stands as it is; a prior of zeros changes nothing for the worse") {
  const Population population(8, 0, CommonMix());
  const std::vector<float> prior = population.Sample(50, 9);
  std::vector<float> h(kWidth * kWidth);
  CHECK(ShrinkHessian(kWidth, 0, prior.data(), h.data()) == 1);
  CHECK(h == prior);
  std::vector<float> zeros(kWidth * kWidth), own = prior;
  ShrinkHessian(kWidth, 1000000, zeros.data(), own.data());
  for (const float v : own) CHECK(std::isfinite(v));
}

}  // namespace
}  // namespace pennyweight
