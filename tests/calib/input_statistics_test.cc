#include "calib/input_statistics.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>

#include "quant/shrink_hessian.h"

namespace pennyweight {
namespace {

std::vector<float> Normals(size_t n, unsigned seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(n);
  for (float& v : values) v = normal(random);
  return values;
}

// x + x m for x[tokens, k], m[k, k].
std::vector<float> Moved(const std::vector<float>& x, const std::vector<float>& m, int64_t k) {
  std::vector<float> moved = x;
  for (size_t t = 0; t < x.size() / static_cast<size_t>(k); ++t) {
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < k; ++j) moved[t * k + j] += x[t * k + i] * m[i * k + j];
    }
  }
  return moved;
}

TEST_CASE("statistics: the correction is D (H + lambda I)^-1 and finds a linear drift") {
  const Context context;
  for (const int64_t k : {1, 40, 150}) {
    CAPTURE(k);
    const int64_t tokens = InputStatistics::kFewTokens * k + 100;
    const std::vector<float> x = Normals(static_cast<size_t>(tokens * k), 1);
    const std::vector<float> m = Normals(static_cast<size_t>(k * k), 2, 0.1f);
    const std::vector<float> original = Moved(x, m, k);
    InputStatistics statistics(k, 0, true);
    const int64_t half = tokens / 2;
    REQUIRE(statistics.Add(context, x.data(), original.data(), half).ok());
    REQUIRE(statistics.Add(context, x.data() + half * k, original.data() + half * k, tokens - half)
                .ok());
    const auto ok = statistics.Factor(context, 0.01);
    REQUIRE(ok.ok());
    REQUIRE(*ok);
    REQUIRE(statistics.correction() != nullptr);
    const float* c = statistics.correction();

    // H and D in double precision: C (H + lambda I) is D.
    std::vector<double> h(static_cast<size_t>(k * k)), d(h.size());
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t j = 0; j < k; ++j) {
          const double xj = x[t * k + j] / static_cast<double>(tokens);
          h[i * k + j] += x[t * k + i] * xj;
          d[i * k + j] += (double{original[t * k + i]} - x[t * k + i]) * xj;
        }
      }
    }
    double worst = 0, drift = 0, missed = 0;
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        double sum = statistics.added()[j] * c[i * k + j];
        for (int64_t l = 0; l < k; ++l) sum += c[i * k + l] * h[l * k + j];
        worst = std::max(worst, std::abs(sum - d[i * k + j]));
        drift += double{m[j * k + i]} * m[j * k + i];
        const double miss = double{c[i * k + j]} - m[j * k + i];
        missed += miss * miss;
      }
    }
    CHECK(worst < 1e-4);
    CHECK(missed < 0.01 * drift);  // what is missed is the damping's
  }
}

TEST_CASE("statistics: without drift there is no correction, and the original is not read") {
  const Context context;
  const std::vector<float> x = Normals(200 * 8, 3);
  InputStatistics statistics(8, 0, false);
  REQUIRE(statistics.Add(context, x.data(), nullptr, 200).ok());
  REQUIRE(*statistics.Factor(context, 0.01));
  CHECK(statistics.correction() == nullptr);
}

TEST_CASE("statistics: held-out rows are evenly spaced, paired, and not fitted to") {
  const Context context;
  constexpr int64_t k = 3, tokens = 2500;
  std::vector<float> x(tokens * k), original(tokens * k);
  for (int64_t i = 0; i < tokens * k; ++i) {
    x[i] = static_cast<float>(i);
    original[i] = static_cast<float>(-i);
  }
  InputStatistics statistics(k, tokens, true);
  const std::vector<float> unit{1, 0, 0, 0, 1, 0, 0, 0, 1};
  REQUIRE(statistics.Add(context, unit.data(), unit.data(), 3).ok());
  statistics.AddHeldOut(x.data(), original.data(), 1000);
  statistics.AddHeldOut(x.data() + 1000 * k, original.data() + 1000 * k, 1500);
  REQUIRE(*statistics.Factor(context, 0.03));
  REQUIRE(statistics.heldout_rows() == 834);  // every third
  for (int64_t r = 0; r < 834; ++r) {
    for (int64_t c = 0; c < k; ++c) {
      CHECK(statistics.heldout()[r * k + c] == static_cast<float>(3 * r * k + c));
      CHECK(statistics.heldout_original()[r * k + c] == -static_cast<float>(3 * r * k + c));
    }
  }
  CHECK(statistics.tokens() == 3);
  for (const float v : statistics.importance()) CHECK(v == doctest::Approx(1 / 3.0 * 1.03));
}

TEST_CASE("statistics: after a factorisation that failed everything can be added again") {
  const Context context;
  constexpr int64_t k = 70, tokens = 90;
  // Of rank one: far too little damping.
  const std::vector<float> base = Normals(k, 4);
  std::vector<float> x;
  for (int64_t t = 0; t < tokens; ++t) {
    for (const float v : base) x.push_back(v * static_cast<float>(1 + t % 7));
  }
  const std::vector<float> original = Moved(x, Normals(k * k, 5, 0.1f), k);
  const auto add = [&](InputStatistics* to) {
    REQUIRE(to->Add(context, x.data(), original.data(), 60).ok());
    to->AddHeldOut(x.data() + 60 * k, original.data() + 60 * k, 30);
  };
  InputStatistics again(k, 30, true), fresh(k, 30, true);
  add(&again);
  REQUIRE_FALSE(*again.Factor(context, 1e-12));
  add(&again);
  REQUIRE(*again.Factor(context, 0.01));
  add(&fresh);
  REQUIRE(*fresh.Factor(context, 0.01));
  CHECK(again.tokens() == 60);
  CHECK(again.heldout_rows() == 30);
  for (int64_t i = 0; i < k * k; ++i) {
    CHECK(again.r().array()[i] == fresh.r().array()[i]);
    CHECK(again.correction()[i] == fresh.correction()[i]);
  }
}

TEST_CASE("statistics: activations that are not finite are an error") {
  const Context context;
  std::vector<float> x = Normals(100 * 4, 6);
  x[77] = std::numeric_limits<float>::infinity();
  InputStatistics statistics(4, 0, false);
  REQUIRE(statistics.Add(context, x.data(), nullptr, 100).ok());
  const auto ok = statistics.Factor(context, 0.01);
  REQUIRE_FALSE(ok.ok());
  CHECK(ok.error().code == ErrorCode::kNonFinite);
}

TEST_CASE("statistics: rescaled ones are those of the input divided by the scale") {
  const Context context;
  constexpr int64_t k = 36, tokens = 400;
  const std::vector<float> x = Normals(tokens * k, 7);
  const std::vector<float> original = Moved(x, Normals(k * k, 8, 0.1f), k);
  std::vector<float> scale(k), divided = x, divided_original = original;
  for (int64_t c = 0; c < k; ++c) scale[c] = std::exp2(static_cast<float>(c % 7) - 3);
  for (size_t i = 0; i < x.size(); ++i) {
    divided[i] /= scale[i % k];
    divided_original[i] /= scale[i % k];
  }
  InputStatistics statistics(k, 100, true);
  REQUIRE(statistics.Add(context, x.data(), original.data(), 300).ok());
  statistics.AddHeldOut(x.data() + 300 * k, original.data() + 300 * k, 100);
  REQUIRE(*statistics.Factor(context, 0.01));
  REQUIRE(statistics.Rescale({}, scale).ok());
  for (int64_t i = 0; i < 100 * k; ++i) {
    CHECK(statistics.heldout()[i] == divided[300 * k + i]);
    CHECK(statistics.heldout_original()[i] == divided_original[300 * k + i]);
  }
  // R R^T is X'^T X' / tokens, plus what damping added, in double precision.
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = i; j < k; ++j) {
      double want = i == j ? statistics.added()[i] : 0.0, have = 0, size = 0;
      for (int64_t t = 0; t < 300; ++t) {
        const double product = double{divided[t * k + i]} * divided[t * k + j] / 300;
        want += product;
        size += std::abs(product);
      }
      for (int64_t c = j; c < k; ++c) {
        have += double{statistics.r().array()[i * k + c]} * statistics.r().array()[j * k + c];
      }
      CHECK(std::abs(have - want) < 1e-5 * size);
      if (i == j) CHECK(statistics.importance()[i] == doctest::Approx(want).epsilon(1e-5));
    }
  }
  // W' = W S has the correction W' C' = (W C) S.
  InputStatistics plain(k, 0, true);
  REQUIRE(plain.Add(context, x.data(), original.data(), 300).ok());
  REQUIRE(*plain.Factor(context, 0.01));
  const std::vector<float> w = Normals(k, 9);
  for (int64_t j = 0; j < k; ++j) {
    double want = 0, have = 0;
    for (int64_t i = 0; i < k; ++i) {
      want += double{w[i]} * plain.correction()[i * k + j] * scale[j];
      have += double{w[i]} * scale[i] * statistics.correction()[i * k + j];
    }
    CHECK(have == doctest::Approx(want).epsilon(1e-3));
  }
}

TEST_CASE("statistics: of an unknown number of held-out rows at most twice as many are kept") {
  constexpr int64_t k = 2, tokens = 9000;
  std::vector<float> x(tokens * k);
  for (int64_t i = 0; i < tokens * k; ++i) x[i] = static_cast<float>(i);
  InputStatistics statistics(k, 0, false);
  for (int64_t t = 0; t < tokens; t += 450) {
    statistics.AddHeldOut(x.data() + t * k, x.data() + t * k, 450);
  }
  // Every second of every second of every second row.
  REQUIRE(statistics.heldout_rows() == tokens / 8);
  for (int64_t r = 0; r < statistics.heldout_rows(); ++r) {
    CHECK(statistics.heldout()[r * k] == static_cast<float>(8 * r * k));
  }
}

TEST_CASE(
    "statistics: shrinking leaves the diagonal, and the last attempt is the diagonal's half") {
  const Context context;
  constexpr int64_t k = 6;
  const std::vector<float> x = Normals(500 * k, 10);
  InputStatistics statistics(k, 0, false);
  REQUIRE(statistics.Add(context, x.data(), nullptr, 500).ok());
  REQUIRE(*statistics.Factor(context, 0.01, 1.0));
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = i + 1; j < k; ++j) CHECK(statistics.r().array()[i * k + j] == 0);
  }
  std::optional<FactorAttempt> attempt = FactorAttempt{};
  std::vector<double> damps;
  while ((attempt = NextAttempt(*attempt))) {
    damps.push_back(attempt->damp);
    CHECK((attempt->shrink > 0) == (damps.size() == 6));
  }
  CHECK(damps == std::vector<double>{0.02, 0.04, 0.08, 0.16, 0.2, 0.2});
}

TEST_CASE("statistics: of few tokens the Hessian and the correction are shrunk") {
  const Context context;
  constexpr int64_t k = 24, tokens = 2 * k;
  const std::vector<float> x = Normals(tokens * k, 21);
  const std::vector<float> original = Moved(x, Normals(k * k, 22, 0.1f), k);
  std::vector<float> h(k * k);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < k * k; ++i) h[i] += x[t * k + i / k] * x[t * k + i % k] / tokens;
  }
  std::vector<float> shrunk = h;
  const double part = ShrinkHessian(context, shrunk.data(), k, tokens, nullptr).intensity;
  CHECK(part > 0.5);
  InputStatistics statistics(k, 0, true);
  REQUIRE(statistics.Add(context, x.data(), original.data(), tokens).ok());
  REQUIRE(*statistics.Factor(context, 0.01));
  std::vector<double> damped(k * k);
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = i; j < k; ++j) {
      double have = i == j ? -statistics.added()[i] : 0.0;
      for (int64_t c = j; c < k; ++c) {
        have += double{statistics.r().array()[i * k + c]} * statistics.r().array()[j * k + c];
      }
      CHECK(have == doctest::Approx(shrunk[i * k + j]).epsilon(1e-3));
      damped[i * k + j] = damped[j * k + i] =
          shrunk[i * k + j] + (i == j ? statistics.added()[i] : 0);
    }
  }
  // C (H + lambda I) is the known part of D.
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      double have = 0, drift = 0;
      for (int64_t l = 0; l < k; ++l)
        have += statistics.correction()[i * k + l] * damped[l * k + j];
      for (int64_t t = 0; t < tokens; ++t) {
        drift += (double{original[t * k + i]} - x[t * k + i]) * x[t * k + j] / tokens;
      }
      CHECK(std::abs(have - (1 - part) * drift) < 1e-4);
    }
  }
}

TEST_CASE("statistics: held-out activations that are not finite are an error") {
  const Context context;
  std::vector<float> x = Normals(100 * 4, 11);
  InputStatistics statistics(4, 20, false);
  REQUIRE(statistics.Add(context, x.data(), nullptr, 80).ok());
  x[90 * 4] = std::numeric_limits<float>::quiet_NaN();
  statistics.AddHeldOut(x.data() + 80 * 4, x.data() + 80 * 4, 20);
  CHECK(statistics.Factor(context, 0.01).error().code == ErrorCode::kNonFinite);
}

TEST_CASE("statistics: a Hessian in panels gives the factor of one in memory") {
  Context context;
  context.threads = 2;
  constexpr int64_t k = 150, panel = 40;
  for (const int64_t tokens : {60L, InputStatistics::kFewTokens * k}) {
    CAPTURE(tokens);
    const std::vector<float> x = Normals(static_cast<size_t>(tokens * k), 41);
    auto panels =
        PanelMatrix::CreateInPanels(k, uint64_t{6} * panel * panel * sizeof(float), "/tmp", panel);
    REQUIRE(panels.ok());
    REQUIRE(panels->scratch_bytes() > 0);
    InputStatistics wide(k, 0, true, std::move(*panels)), plain(k, 0, false);
    CHECK_FALSE(wide.with_drift());
    for (InputStatistics* each : {&wide, &plain}) {
      // What failed before leaves nothing behind.
      std::vector<float> rank_one(x.begin(), x.begin() + k);
      REQUIRE(each->Add(context, rank_one.data(), nullptr, 1).ok());
      for (float& v : rank_one) v = -2 * v;
      REQUIRE(each->Add(context, rank_one.data(), nullptr, 1).ok());
      const auto failed = each->Factor(context, -0.5);
      REQUIRE(failed.ok());
      CHECK_FALSE(*failed);
      REQUIRE(each->Add(context, x.data(), nullptr, tokens / 2).ok());
      REQUIRE(each->Add(context, x.data() + tokens / 2 * k, nullptr, tokens - tokens / 2).ok());
      const auto factored = each->Factor(context, 0.01, 0.25);
      REQUIRE(factored.ok());
      REQUIRE(*factored);
    }
    CHECK(wide.tokens() == tokens);
    CHECK(wide.r().array() == nullptr);
    CHECK(wide.added()[0] == doctest::Approx(plain.added()[0]).epsilon(1e-12));
    const auto compare = [&] {
      std::vector<float> buffer;
      const auto all = wide.r().Read(context, 0, k, 0, k, &buffer);
      REQUIRE(all.ok());
      for (int64_t i = 0; i < k; ++i) {
        CHECK(wide.importance()[i] == doctest::Approx(plain.importance()[i]).epsilon(1e-6));
        for (int64_t j = i; j < k; ++j) {
          const float want = plain.r().array()[i * k + j];
          CHECK(std::abs(*all->At(i, j) - want) < 2e-5 * plain.r().array()[j * k + j]);
        }
      }
    };
    compare();
    const std::vector<float> m = Normals(7 * k, 42);
    const auto want = NormThroughFactor(context, m.data(), 7, plain.r());
    const auto got = NormThroughFactor(context, m.data(), 7, wide.r());
    REQUIRE(want.ok());
    REQUIRE(got.ok());
    CHECK(*got == doctest::Approx(*want).epsilon(1e-5));
    const std::vector<float> scale = Normals(k, 43);
    REQUIRE(wide.Rescale(context, scale).ok());
    REQUIRE(plain.Rescale(context, scale).ok());
    std::vector<float> buffer;
    const auto row = wide.r().Read(context, 3, 1, 3, k - 3, &buffer);
    REQUIRE(row.ok());
    for (int64_t j = 3; j < k; ++j) {
      const float unscaled = plain.r().array()[3 * k + j];
      CHECK(std::abs(*row->At(0, j - 3) - unscaled) <
            2e-5 * std::abs(plain.r().array()[3 * k + 3]) + 2e-5 * std::abs(unscaled));
    }
  }
}

TEST_CASE("statistics: in panels, too, activations that are not finite are an error") {
  constexpr int64_t k = 90;
  std::vector<float> x = Normals(100 * k, 44);
  x[17 * k + 80] = std::numeric_limits<float>::quiet_NaN();
  auto panels = PanelMatrix::CreateInPanels(k, uint64_t{1} << 20, "/tmp", 40);
  REQUIRE(panels.ok());
  InputStatistics wide(k, 0, false, std::move(*panels));
  REQUIRE(wide.Add({}, x.data(), nullptr, 100).ok());
  const auto factored = wide.Factor({}, 0.01);
  REQUIRE_FALSE(factored.ok());
  CHECK(factored.error().code == ErrorCode::kNonFinite);
}

}  // namespace
}  // namespace pennyweight
