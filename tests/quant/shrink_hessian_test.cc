#include "quant/shrink_hessian.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "lib/linalg.h"
#include "quant/codec.h"
#include "quant/method.h"
#include "tests/quant/matrices.h"

namespace pennyweight {
namespace {

std::vector<float> Floats(const std::vector<double>& h) { return {h.begin(), h.end()}; }

// The loss on the true H of gptq under `h` (upper triangle), with the usual damping.
double LossUnder(std::vector<float> h, const std::vector<double>& truth,
                 const std::vector<float>& w, int64_t rows, int64_t k) {
  double mean = 0;
  for (int64_t i = 0; i < k; ++i)
    mean += h[static_cast<size_t>(i * k + i)] / static_cast<double>(k);
  std::vector<float> diagonal;
  for (int64_t i = 0; i < k; ++i) {
    float& d = h[static_cast<size_t>(i * k + i)];
    d += static_cast<float>(0.01 * mean);
    diagonal.push_back(d);
  }
  REQUIRE(FactorUpper({}, k, h.data(), k));
  EncodedTensor out;
  REQUIRE(QuantizeGptq({}, Encoding::Integer(Ints(3, 32, false, DType::kF16)),
                       {{k, h.data()}, diagonal}, w.data(), rows, k, &out)
              .ok());
  std::vector<float> v(w.size());
  DecodeRows(out, 0, rows, v.data());
  return OutputError(w, v, truth, rows, k);
}

TEST_CASE("with few tokens the loss on the true Hessian falls, with many nothing happens") {
  const int64_t rows = 32, k = 128;
  const std::vector<double> truth = Hessian(RandomActivations(16 * k, k, 1), 16 * k, k);
  const std::vector<float> w = RandomWeights(rows * k, 2);
  double last = 1;
  for (const int64_t tokens : {16, 40, 96, 1024}) {
    CAPTURE(tokens);
    double plain = 0, shrunk = 0, intensity = 0;
    for (uint32_t seed = 10; seed < 14; ++seed) {
      const auto sample = Floats(Hessian(RandomActivations(tokens, k, seed), tokens, k));
      plain += LossUnder(sample, truth, w, rows, k);
      std::vector<float> h = sample;
      const Shrinkage s = ShrinkHessian({}, h.data(), k, tokens, nullptr);
      CHECK_FALSE(s.to_prior);
      intensity += s.intensity / 4;
      shrunk += LossUnder(h, truth, w, rows, k);
    }
    if (tokens < k) CHECK(shrunk < 0.97 * plain);
    CHECK(shrunk < 1.01 * plain);
    CHECK(intensity < last);
    last = intensity;
  }
  CHECK(last < 0.1);
}

TEST_CASE(
    "a prior of like correlations is better than the diagonal, one that is unlike is not used") {
  const int64_t rows = 32, k = 128, tokens = 40;
  const std::vector<double> truth = Hessian(RandomActivations(16 * k, k, 1), 16 * k, k);
  const auto prior = Floats(Hessian(RandomActivations(8 * k, k, 3), 8 * k, k));
  const std::vector<float> w = RandomWeights(rows * k, 4);
  const auto sample = Floats(Hessian(RandomActivations(tokens, k, 5), tokens, k));
  std::vector<float> diagonal = sample, mixed = sample, other = sample;
  ShrinkHessian({}, diagonal.data(), k, tokens, nullptr);
  const Shrinkage s = ShrinkHessian({}, mixed.data(), k, tokens, prior.data());
  CHECK(s.to_prior);
  CHECK(s.intensity > 0.5);
  CHECK(LossUnder(mixed, truth, w, rows, k) < 0.9 * LossUnder(diagonal, truth, w, rows, k));

  std::vector<float> opposite = prior;
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = i + 1; j < k; ++j) opposite[static_cast<size_t>(i * k + j)] *= -1;
  }
  CHECK_FALSE(ShrinkHessian({}, other.data(), k, tokens, opposite.data()).to_prior);
  CHECK(other == diagonal);
}

TEST_CASE("no tokens, unseen columns, values that are not finite; threads do not matter") {
  const int64_t k = 64;
  const auto prior = Floats(Hessian(RandomActivations(4 * k, k, 3), 4 * k, k));
  std::vector<float> none(static_cast<size_t>(k * k));
  const Shrinkage all = ShrinkHessian({}, none.data(), k, 0, prior.data());
  CHECK(all.to_prior);
  CHECK(all.intensity == 1);
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = i; j < k; ++j) {
      const auto at = static_cast<size_t>(i * k + j);
      CHECK(none[at] == doctest::Approx(prior[at]).epsilon(1e-5));
    }
  }

  std::vector<float> x = RandomActivations(30, k, 7);
  for (size_t t = 0; t < 30; ++t) x[t * k + 9] = 0;  // a channel that was never active
  const auto sample = Floats(Hessian(x, 30, k));
  std::vector<float> h = sample;
  Context threads;
  threads.threads = 3;
  ShrinkHessian(threads, h.data(), k, 30, prior.data());
  CHECK(h[9 * k + 9] > 0);
  std::vector<float> alone = sample;
  ShrinkHessian({}, alone.data(), k, 30, prior.data());
  CHECK(alone == h);
  CHECK(h[3 * k + 3] == sample[3 * k + 3]);
  // Still positive semidefinite: with a little damping it has a factor.
  for (int64_t i = 0; i < k; ++i) h[static_cast<size_t>(i * k + i)] *= 1.001f;
  CHECK(FactorUpper({}, k, h.data(), k));

  std::vector<float> broken = sample;
  broken[2 * k + 5] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> before = broken;
  CHECK(ShrinkHessian({}, broken.data(), k, 30, nullptr).intensity == 0);
  CHECK(broken[2 * k + 6] == before[2 * k + 6]);
}

TEST_CASE("a Hessian in panels is shrunk as one in memory is") {
  const int64_t k = 128;
  for (const int64_t tokens : {0, 16, 96}) {
    CAPTURE(tokens);
    const std::vector<float> x = RandomActivations(std::max<int64_t>(1, tokens), k, 21);
    std::vector<float> h(static_cast<size_t>(k * k));
    auto panels = PanelMatrix::CreateInPanels(k, uint64_t{4} * 40 * 40 * sizeof(float), "/tmp", 40);
    REQUIRE(panels.ok());
    REQUIRE(panels->scratch_bytes() > 0);
    if (tokens > 0) {
      SyrkUpper({}, tokens, k, x.data(), k, h.data(), k);
      REQUIRE(panels->AddProduct({}, tokens, x.data(), k).ok());
    }
    const Shrinkage want = ShrinkHessian({}, h.data(), k, tokens, nullptr);
    const auto got = ShrinkHessian({}, &*panels, tokens);
    REQUIRE(got.ok());
    CHECK(got->intensity == doctest::Approx(want.intensity).epsilon(1e-12));
    CHECK_FALSE(got->to_prior);
    std::vector<float> read(h.size());
    REQUIRE(panels->Read({}, 0, k, 0, k, read.data(), k).ok());
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = i; j < k; ++j) {
        CHECK(read[static_cast<size_t>(i * k + j)] ==
              doctest::Approx(h[static_cast<size_t>(i * k + j)]).epsilon(1e-6));
      }
    }
  }
}

}  // namespace
}  // namespace pennyweight
