#include "calib/collect_statistics.h"

#include <cmath>
#include <map>

#include "calib/ops.h"
#include "tests/calib/test_model.h"

namespace pennyweight {
namespace {

Windows RandomWindows(unsigned seed, std::vector<int64_t> lengths) {
  std::mt19937 random(seed);
  Windows windows;
  for (const int64_t n : lengths) {
    for (int64_t i = 0; i < n; ++i) windows.ids.push_back(static_cast<int32_t>(random() % 5000));
    windows.first_scored.push_back(1);
  }
  windows.lengths = std::move(lengths);
  return windows;
}

struct Collected {
  Statistics statistics;
  std::vector<std::vector<float>> hessians;
};

Collected Collect(const TestModel& model, const Windows& windows, const CollectOptions& options,
                  Context context = {}) {
  Collected out;
  const Status status = CollectStatistics(
      context, model.Runnable(), windows, options, [&](InputSums sums, std::span<float> hessian) {
        out.statistics.inputs.push_back(std::move(sums));
        out.hessians.emplace_back(hessian.begin(), hessian.end());
        return OkStatus();
      });
  REQUIRE_MESSAGE(status.ok(), status.error().ToString());
  return out;
}

// Rows that each matrix was given, written down step by step.
using Rows = std::map<std::string, std::vector<float>>;

Rows Watch(const TestModel& model, const Windows& windows, std::vector<float>* normed) {
  const RunnableModel m = model.Runnable();
  const int64_t width = model.config.hidden_size;
  std::vector<float> hidden(static_cast<size_t>(windows.tokens() * width));
  REQUIRE(EmbedTokens(*m.source, *m.family, *m.config, windows.ids, hidden.data()).ok());
  LayerRunner runner(*m.family, *m.config);
  Rows rows;
  for (int64_t layer = 0; layer < m.config->layers; ++layer) {
    const auto weights = LoadLayer(*m.source, *m.family, *m.config, layer);
    REQUIRE(weights.ok());
    for (size_t i = 0; i < m.family->layer.size(); ++i) {
      const Step& step = m.family->layer[i];
      const auto keep = [&](int64_t expert, int64_t first, int64_t count) {
        const float* x = runner.slot(step.in) + first * runner.width(step.in);
        std::vector<float>& to = rows[NameFor(step.weight, layer, expert)];
        to.insert(to.end(), x, x + count * runner.width(step.in));
      };
      if (step.kind == StepKind::kLinear) keep(-1, 0, windows.tokens());
      if (step.kind == StepKind::kExpertLinear) {
        const std::vector<int64_t>& begin = runner.routing().begin;
        for (size_t e = 0; e + 1 < begin.size(); ++e) {
          keep(static_cast<int64_t>(e), begin[e], begin[e + 1] - begin[e]);
        }
      }
      runner.Run({}, *weights, windows.lengths, i, i + 1, hidden.data());
    }
  }
  *normed = hidden;
  REQUIRE(FinalNorm({}, m, windows.tokens(), normed->data()).ok());
  return rows;
}

void CheckSums(const InputSums& sums, const std::vector<float>& x) {
  const auto width = static_cast<size_t>(sums.width);
  REQUIRE(x.size() == width * static_cast<size_t>(sums.tokens));
  for (size_t c = 0; c < width; ++c) {
    double sq = 0, plain = 0, size = 0, most = 0;
    for (size_t at = c; at < x.size(); at += width) {
      const double v = x[at];
      sq += v * v;
      plain += v;
      size += std::abs(v);
      most = std::max(most, std::abs(v));
    }
    // Chunks of other sizes give products that differ in the last bits.
    CHECK(sums.sum_sq[c] == doctest::Approx(sq).epsilon(1e-4));
    CHECK(sums.sum[c] == doctest::Approx(plain).epsilon(1e-4).scale(size));
    CHECK(sums.sum_abs[c] == doctest::Approx(size).epsilon(1e-4));
    CHECK(static_cast<double>(sums.max_abs[c]) == doctest::Approx(most).epsilon(1e-4));
  }
}

// Long enough for several chunks.
const std::vector<int64_t> kLengths = {700, 900, 900, 300, 41};

TEST_CASE("calibrate: the sums are those of each linear's rows, experts and head included") {
  for (const std::string family : {"llama", "qwen2", "mixtral"}) {
    CAPTURE(family);
    const TestModel model = RandomModel(3, false, family);
    const Windows windows = RandomWindows(4, kLengths);
    std::vector<float> normed;
    Rows rows = Watch(model, windows, &normed);
    rows["lm_head.weight"] = normed;
    CollectOptions options;
    options.head = true;
    const Collected got = Collect(model, windows, options);
    size_t matrices = 0;
    for (const InputSums& input : got.statistics.inputs) {
      for (const std::string& name : input.weights) {
        CAPTURE(name);
        REQUIRE(rows.contains(name));
        ++matrices;
        CheckSums(input, rows[name]);
      }
    }
    CHECK(matrices == rows.size());
    if (family != "mixtral") continue;
    int64_t routed = 0;
    for (const InputSums& input : got.statistics.inputs) {
      if (input.weights.front().ends_with("w2.weight")) routed += input.tokens;
    }
    CHECK(routed == 3 * 2 * windows.tokens());
  }
}

TEST_CASE("calibrate: the head is watched when asked for, and when there is one") {
  const Windows windows = RandomWindows(4, {64, 64});
  CollectOptions options;
  CHECK(Collect(RandomModel(3, false), windows, options).statistics.inputs.size() == 12);
  options.head = true;
  CHECK(Collect(RandomModel(3, false), windows, options).statistics.inputs.size() == 13);
  CHECK(Collect(RandomModel(3, true), windows, options).statistics.inputs.size() == 12);
}

TEST_CASE("calibrate: with all experts every expert sees every token, and nothing else changes") {
  const TestModel model = RandomModel(5, false, "mixtral");
  const Windows windows = RandomWindows(6, {200, 200});
  CollectOptions options;
  const Collected chosen = Collect(model, windows, options);
  options.all_experts = true;
  const Collected all = Collect(model, windows, options);
  REQUIRE(all.statistics.inputs.size() == chosen.statistics.inputs.size());
  int64_t fewest = windows.tokens();
  for (size_t i = 0; i < all.statistics.inputs.size(); ++i) {
    const InputSums& a = all.statistics.inputs[i];
    const InputSums& c = chosen.statistics.inputs[i];
    CHECK(a.weights == c.weights);
    CHECK(a.tokens == windows.tokens());
    fewest = std::min(fewest, c.tokens);
    if (a.weights.front().find("experts") != std::string::npos) continue;
    for (size_t k = 0; k < a.sum_sq.size(); ++k) {
      CHECK(a.sum_sq[k] == doctest::Approx(c.sum_sq[k]).epsilon(1e-5));
    }
  }
  CHECK(fewest < windows.tokens());
}

TEST_CASE("calibrate: Hessians are X^T X, in any memory and on any threads the same") {
  for (const std::string family : {"llama", "mixtral"}) {
    CAPTURE(family);
    const TestModel model = RandomModel(7, false, family);
    const Windows windows = RandomWindows(8, kLengths);
    std::vector<float> normed;
    Rows rows = Watch(model, windows, &normed);
    CollectOptions options;
    options.hessians = true;
    const Collected roomy = Collect(model, windows, options);
    for (size_t i = 0; i < roomy.hessians.size(); ++i) {
      const InputSums& input = roomy.statistics.inputs[i];
      const std::vector<float>& x = rows.at(input.weights.front());
      const int64_t width = input.width;
      REQUIRE(roomy.hessians[i].size() == static_cast<size_t>(width * width));
      for (int64_t a = 0; a < width; a += 7) {
        for (int64_t b = a; b < width; b += 5) {
          double want = 0, scale = 0;
          for (int64_t t = 0; t < input.tokens; ++t) {
            const double v = double{x[static_cast<size_t>(t * width + a)]} *
                             x[static_cast<size_t>(t * width + b)];
            want += v;
            scale += std::abs(v);
          }
          const double got = roomy.hessians[i][static_cast<size_t>(a * width + b)];
          CHECK(std::abs(got - want) <= 1e-4 * scale);
        }
      }
    }
    // The least memory that is enough: one Hessian at a time, states in a file.
    Context tight;
    tight.threads = 3;
    tight.memory_limit = 1 << 20;
    options.scratch_dir = ".";
    const auto none = [](InputSums, std::span<float>) { return OkStatus(); };
    const Status refused = CollectStatistics(tight, model.Runnable(), windows, options, none);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().code == ErrorCode::kMemory);
    const std::string hint = refused.error().hint;  // --memory 51M
    tight.memory_limit = std::stoull(hint.substr(hint.find(' ') + 1)) * 1000000;
    const Collected narrow = Collect(model, windows, options, tight);
    REQUIRE(narrow.hessians.size() == roomy.hessians.size());
    for (size_t i = 0; i < roomy.hessians.size(); ++i) {
      CHECK(narrow.hessians[i] == roomy.hessians[i]);
      CHECK(narrow.statistics.inputs[i].sum_sq == roomy.statistics.inputs[i].sum_sq);
      CHECK(narrow.statistics.inputs[i].sum == roomy.statistics.inputs[i].sum);
      CHECK(narrow.statistics.inputs[i].weights == roomy.statistics.inputs[i].weights);
    }
  }
}

TEST_CASE("calibrate: activations that are not finite name the matrix") {
  TestModel model = RandomModel(9, false);
  const std::string norm = "model.layers.1.post_attention_layernorm.weight";
  const float bad = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(model.source->data(norm).data() + 12, &bad, sizeof(bad));
  const Status status = CollectStatistics({}, model.Runnable(), RandomWindows(1, {32, 32}), {},
                                          [](InputSums, std::span<float>) { return OkStatus(); });
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().code == ErrorCode::kNonFinite);
  CHECK(status.error().tensor == "model.layers.1.mlp.gate_proj.weight");
}

}  // namespace
}  // namespace pennyweight
