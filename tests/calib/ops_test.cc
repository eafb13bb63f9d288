#include "calib/ops.h"

#include <hwy/targets.h>

#include <cmath>
#include <functional>
#include <limits>

#include "tests/calib/test_model.h"

namespace pennyweight {
namespace {

std::vector<float> Normal(unsigned seed, size_t n, float deviation) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(n);
  for (float& v : values) v = normal(random);
  return values;
}

// Runs a check under each instruction set that was compiled and that the CPU has.
void ForEachTarget(const std::function<void()>& check) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    CAPTURE(hwy::TargetName(target));
    check();
  }
  hwy::SetSupportedTargetsForTest(0);
}

constexpr int64_t kLengths[] = {1, 2, 3, 7, 16, 17, 31, 33, 100, 257};

TEST_CASE("ops: row operations against double, every length and instruction set") {
  ForEachTarget([] {
    for (const int64_t n : kLengths) {
      CAPTURE(n);
      const auto size = static_cast<size_t>(n);
      const std::vector<float> x = Normal(1, size, 3), y = Normal(2, size, 2);
      double squares = 0, max = -1e30, sum = 0;
      for (const float v : x) {
        squares += static_cast<double>(v) * static_cast<double>(v);
        max = std::max(max, static_cast<double>(v));
      }
      std::vector<float> norm(size + 1, 77), silu(size + 1, 77), add = y, soft = x;
      RmsNormRow(x.data(), y.data(), n, 1e-5, norm.data());
      SiluGateRow(x.data(), y.data(), n, silu.data());
      AddRow(x.data(), n, add.data());
      SoftmaxRow(soft.data(), n, 0.25f);
      const double rms = std::sqrt(squares / static_cast<double>(n) + 1e-5);
      for (const float v : x) sum += std::exp(0.25 * (static_cast<double>(v) - max));
      double difference = 0, plain = 0;
      for (size_t i = 0; i < size; ++i) {
        const auto a = static_cast<double>(x[i]), b = static_cast<double>(y[i]);
        CHECK(norm[i] == doctest::Approx(a / rms * b).epsilon(1e-6));
        CHECK(silu[i] == doctest::Approx(a / (1 + std::exp(-a)) * b).epsilon(2e-6));
        CHECK(add[i] == x[i] + y[i]);
        CHECK(soft[i] == doctest::Approx(std::exp(0.25 * (a - max)) / sum).epsilon(2e-6));
        plain += std::exp(a - max);
        difference += std::exp(a - max) * (a - b);
      }
      CHECK(norm[size] == 77);
      CHECK(silu[size] == 77);
      CHECK(static_cast<double>(MaxOfRow(x.data(), n)) == max);
      CHECK(SumExp(x.data(), n, static_cast<float>(max)) == doctest::Approx(plain).epsilon(1e-6));
      CHECK(SumExpDifference(x.data(), y.data(), n, static_cast<float>(max)) ==
            doctest::Approx(difference).epsilon(1e-5));
    }
  });
}

TEST_CASE("ops: a maximum tells of every value that is not finite") {
  ForEachTarget([] {
    for (const int64_t n : kLengths) {
      for (const float bad :
           {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
            -std::numeric_limits<float>::infinity()}) {
        std::vector<float> row = Normal(3, static_cast<size_t>(n), 1);
        CHECK(std::isfinite(MaxOfRow(row.data(), n)));
        row[static_cast<size_t>(n) / 2] = bad;
        CHECK(std::isnan(MaxOfRow(row.data(), n)));
      }
    }
  });
}

TEST_CASE("ops: softmax and SiLU of extreme values stay finite") {
  std::vector<float> row = {-1e30f, 1e4f, 1e4f, -90, 0};
  SoftmaxRow(row.data(), 5, 1);
  CHECK(row[0] == 0);
  CHECK(row[1] == doctest::Approx(0.5));
  const float gate[] = {-200, -100, 200}, up[] = {1, 1, 1};
  float out[3];
  SiluGateRow(gate, up, 3, out);
  CHECK(std::abs(out[0]) < 1e-20f);
  CHECK(std::abs(out[1]) < 1e-20f);
  CHECK(out[2] == 200);
}

TEST_CASE("ops: rotation turns the halves of a head as pairs") {
  ForEachTarget([] {
    for (const int64_t half : {1, 3, 4, 16, 20, 64}) {
      CAPTURE(half);
      const auto n = static_cast<size_t>(half);
      const std::vector<float> before = Normal(5, 3 * 2 * n, 1);
      std::vector<float> cosine(n), sine(n), row = before;
      for (size_t i = 0; i < n; ++i) {
        cosine[i] = std::cos(0.3f * static_cast<float>(i + 1));
        sine[i] = std::sin(0.3f * static_cast<float>(i + 1));
      }
      RotateHeads(row.data(), 3, 2 * half, cosine.data(), sine.data());
      for (size_t h = 0; h < 3; ++h) {
        for (size_t i = 0; i < n; ++i) {
          const float x = before[h * 2 * n + i], y = before[h * 2 * n + n + i];
          CHECK(row[h * 2 * n + i] == doctest::Approx(x * cosine[i] - y * sine[i]).epsilon(1e-5));
          CHECK(row[h * 2 * n + n + i] ==
                doctest::Approx(y * cosine[i] + x * sine[i]).epsilon(1e-5));
        }
      }
    }
  });
}

}  // namespace
}  // namespace pennyweight
