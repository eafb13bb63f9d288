// Mixture of experts in the forward pass, against its definition in double and against the
// reference's own figures.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "calib/forward.h"
#include "calib/generate.h"
#include "lib/linalg.h"
#include "lib/linalg_path.h"
#include "tests/calib/test_model.h"

namespace pennyweight {
namespace {

constexpr int64_t kHidden = 24, kFfn = 40, kExperts = 5;

const Family& Mixtral() { return *FindFamily("mixtral"); }

size_t StepOf(StepKind kind) {
  const auto& layer = Mixtral().layer;
  const auto at = std::ranges::find_if(layer, [&](const Step& s) { return s.kind == kind; });
  return static_cast<size_t>(at - layer.begin());
}
size_t AllSteps() { return Mixtral().layer.size(); }

std::vector<float> RandomHidden(unsigned seed, int64_t tokens) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> hidden(static_cast<size_t>(tokens * kHidden));
  for (float& v : hidden) v = normal(random);
  return hidden;
}

LayerWeights Load(const TestModel& model, int64_t layer) {
  auto weights = LoadLayer(*model.source, Mixtral(), model.config, layer);
  REQUIRE(weights.ok());
  return std::move(weights).value();
}

// Row `row` of a [rows, cols] float matrix of the model times x.
double Dot(const TestModel& model, const std::string& name, int64_t row,
           const std::vector<double>& x) {
  const auto& data = model.source->data("model.layers.1.block_sparse_moe." + name + ".weight");
  std::vector<float> values(x.size());
  std::memcpy(values.data(), data.data() + static_cast<size_t>(row) * x.size() * sizeof(float),
              x.size() * sizeof(float));
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += static_cast<double>(values[i]) * x[i];
  return sum;
}

// What the mixture of layer 1 adds to a token whose normed state is x; `chosen` gets its experts.
std::vector<double> Mixture(const TestModel& model, const std::vector<double>& x,
                            std::vector<int64_t>* chosen) {
  std::vector<double> probability(kExperts);
  double sum = 0;
  for (int64_t e = 0; e < kExperts; ++e) {
    sum += probability[static_cast<size_t>(e)] = std::exp(Dot(model, "gate", e, x));
  }
  std::vector<int64_t> order(kExperts);
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, [&](int64_t a, int64_t b) {
    return probability[static_cast<size_t>(a)] > probability[static_cast<size_t>(b)];
  });
  *chosen = {order[0], order[1]};
  const double best =
      (probability[static_cast<size_t>(order[0])] + probability[static_cast<size_t>(order[1])]) /
      sum;
  std::vector<double> out(kHidden);
  for (const int64_t e : *chosen) {
    const std::string expert = "experts." + std::to_string(e);
    std::vector<double> gated(kFfn);
    for (int64_t r = 0; r < kFfn; ++r) {
      const double gate = Dot(model, expert + ".w1", r, x);
      gated[static_cast<size_t>(r)] =
          gate / (1 + std::exp(-gate)) * Dot(model, expert + ".w3", r, x);
    }
    const double weight = probability[static_cast<size_t>(e)] / sum / best;
    for (int64_t r = 0; r < kHidden; ++r) {
      out[static_cast<size_t>(r)] += weight * Dot(model, expert + ".w2", r, gated);
    }
  }
  return out;
}

TEST_CASE("experts: the mixture equals its definition") {
  const TestModel model = RandomModel(11, false, "mixtral");
  const LayerWeights weights = Load(model, 1);
  constexpr int64_t kTokens = 150;
  const std::vector<int64_t> windows = {100, 50};
  std::vector<float> hidden = RandomHidden(3, kTokens);
  LayerRunner runner(Mixtral(), model.config);
  runner.Run({}, weights, windows, 0, StepOf(StepKind::kRoute), hidden.data());
  const std::vector<float> before = hidden;
  const float* normed = runner.slot(Slot::kNormed);
  const std::vector<float> in(normed, normed + kTokens * kHidden);
  runner.Run({}, weights, windows, StepOf(StepKind::kRoute), AllSteps(), hidden.data());
  const Routing& routing = runner.routing();
  REQUIRE(routing.begin.size() == kExperts + 1);
  CHECK(runner.rows(Slot::kExpertIn) == 2 * kTokens);
  CHECK(runner.rows(Slot::kNormed) == kTokens);
  CHECK(runner.width(Slot::kExpertGated) == kFfn);
  CHECK(runner.width(Slot::kRouterLogits) == kExperts);
  double worst = 0, largest = 0;
  std::vector<std::vector<int64_t>> experts(kTokens);
  for (size_t t = 0; t < kTokens; ++t) {
    const std::vector<double> x(in.begin() + static_cast<int64_t>(t) * kHidden,
                                in.begin() + static_cast<int64_t>(t + 1) * kHidden);
    const std::vector<double> delta = Mixture(model, x, &experts[t]);
    for (size_t i = 0; i < kHidden; ++i) {
      const size_t at = t * kHidden + i;
      const double got = static_cast<double>(hidden[at]) - static_cast<double>(before[at]);
      worst = std::max(worst, std::abs(got - delta[i]));
      largest = std::max(largest, std::abs(delta[i]));
    }
  }
  CHECK(largest > 0.5);
  CHECK(worst < 2e-5);
  // The rows of each expert: its tokens, ascending, with what they share adding up to one.
  std::vector<double> share(kTokens);
  for (size_t e = 0; e < kExperts; ++e) {
    CHECK(routing.begin[e + 1] > routing.begin[e]);
    for (auto row = static_cast<size_t>(routing.begin[e]);
         row < static_cast<size_t>(routing.begin[e + 1]); ++row) {
      const auto t = static_cast<size_t>(routing.token[row]);
      CHECK(std::ranges::count(experts[t], static_cast<int64_t>(e)) == 1);
      if (row > static_cast<size_t>(routing.begin[e])) {
        CHECK(routing.token[row] > routing.token[row - 1]);
      }
      share[t] += static_cast<double>(routing.weight[row]);
    }
  }
  for (const double s : share) CHECK(s == doctest::Approx(1.0).epsilon(1e-6));
}

TEST_CASE("experts: bf16 rounds every linear but the router, and nothing unless asked") {
  const TestModel model = RandomModel(15, false, "mixtral");
  const LayerWeights weights = Load(model, 1);
  const std::vector<int64_t> windows = {100, 50};
  const std::vector<float> start = RandomHidden(6, 150);
  const auto run = [&](LayerRunner& runner) {
    std::vector<float> hidden = start;
    runner.Run({}, weights, windows, 0, AllSteps(), hidden.data());
    return hidden;
  };
  linalg::SetBf16PathForTest(linalg::Bf16Path::kNone);
  LayerRunner plain(Mixtral(), model.config);
  const std::vector<float> full = run(plain);
  linalg::SetBf16PathForTest(linalg::Bf16Path::kRounded);
  CHECK(run(plain) == full);
  LayerRunner rounding(Mixtral(), model.config);
  rounding.UsePrecision(Precision::kBf16);
  const std::vector<float> rounded = run(rounding);
  // The router's logits are the fp32 product of its (by now different) input.
  const Step& router =
      *std::find_if(Mixtral().layer.begin(), Mixtral().layer.end(),
                    [](const Step& step) { return step.out == Slot::kRouterLogits; });
  const Weight& weight = weights.at({router.weight});
  std::vector<float> logits(150 * kExperts);
  Gemm({}, {.m = 150,
            .n = kExperts,
            .k = kHidden,
            .a = rounding.slot(Slot::kNormed),
            .a_stride = kHidden,
            .b = weight.data.data(),
            .b_dtype = weight.dtype,
            .b_stride = kHidden,
            .c = logits.data(),
            .c_stride = kExperts});
  linalg::SetBf16PathForTest(std::nullopt);
  CHECK(std::equal(logits.begin(), logits.end(), rounding.slot(Slot::kRouterLogits)));
  double error = 0, norm = 0;
  for (size_t i = 0; i < full.size(); ++i) {
    error += std::pow(double{rounded[i]} - double{full[i]}, 2);
    norm += std::pow(double{full[i]} - double{start[i]}, 2);
  }
  const double relative = std::sqrt(error / norm);
  CAPTURE(relative);
  CHECK(relative > 1e-5);  // bf16 has 8 bits
  CHECK(relative < 0.05);
}

TEST_CASE("experts: same bits for any number of threads, and in two parts") {
  const TestModel model = RandomModel(12, false, "mixtral");
  const LayerWeights weights = Load(model, 0);
  const std::vector<int64_t> windows = {90, 33, 128};
  const std::vector<float> start = RandomHidden(5, 251);
  std::vector<float> once = start;
  LayerRunner runner(Mixtral(), model.config);
  runner.Run({}, weights, windows, 0, AllSteps(), once.data());
  CHECK(once != start);
  Context four;
  four.threads = 4;
  std::vector<float> threaded = start;
  LayerRunner other(Mixtral(), model.config);
  other.Run(four, weights, windows, 0, AllSteps(), threaded.data());
  CHECK(threaded == once);
  for (size_t cut = 0; cut <= AllSteps(); ++cut) {
    std::vector<float> parts = start;
    runner.Run({}, weights, windows, 0, cut, parts.data());
    runner.Run({}, weights, windows, cut, AllSteps(), parts.data());
    CHECK(parts == once);
  }
}

TEST_CASE("experts: all tokens through every expert change nothing but what can be watched") {
  const TestModel model = RandomModel(13, false, "mixtral");
  const LayerWeights weights = Load(model, 2);
  const std::vector<int64_t> windows = {70};
  const std::vector<float> start = RandomHidden(8, 70);
  LayerRunner runner(Mixtral(), model.config);
  std::vector<float> chosen = start;
  runner.Run({}, weights, windows, 0, AllSteps(), chosen.data());
  const Routing own = runner.routing();
  runner.RouteAll(true);
  std::vector<float> all = start;
  runner.Run({}, weights, windows, 0, AllSteps(), all.data());
  CHECK(all == chosen);
  CHECK(runner.rows(Slot::kExpertGated) == 70 * kExperts);
  double own_sum = 0, all_sum = 0;
  for (const float w : own.weight) own_sum += static_cast<double>(w);
  for (const float w : runner.routing().weight) all_sum += static_cast<double>(w);
  CHECK(all_sum == own_sum);
  // Each expert's input is then the normed state itself.
  const float* normed = runner.slot(Slot::kNormed);
  const float* in = runner.slot(Slot::kExpertIn);
  for (int64_t e = 0; e < kExperts; ++e) {
    CHECK(std::equal(normed, normed + 70 * kHidden, in + e * 70 * kHidden));
  }
  runner.RouteAll(false);
  std::vector<float> again = start;
  runner.Run({}, weights, windows, 0, AllSteps(), again.data());
  CHECK(again == chosen);
  CHECK(runner.routing().token == own.token);
}

TEST_CASE("experts: rows of another model's choice") {
  const TestModel model = RandomModel(14, false, "mixtral");
  const LayerWeights weights = Load(model, 1);
  const std::vector<int64_t> windows = {60};
  const std::vector<float> start = RandomHidden(9, 60);
  LayerRunner runner(Mixtral(), model.config);
  std::vector<float> free = start;
  runner.Run({}, weights, windows, 0, AllSteps(), free.data());
  const Routing own = runner.routing();
  // What it chose itself, forced: the same bits.
  std::vector<float> forced = start;
  runner.ForceRouting(&own);
  runner.Run({}, weights, windows, 0, AllSteps(), forced.data());
  CHECK(forced == free);
  CHECK(runner.routing().weight == own.weight);

  // Ten tokens through expert 3 alone: its rows are theirs, its weights only where it was chosen.
  Routing ten;
  ten.begin = {0, 0, 0, 0, 10, 10};
  for (int64_t t = 0; t < 10; ++t) ten.token.push_back(5 * t + 1);
  runner.ForceRouting(&ten);
  forced = start;
  runner.Run({}, weights, windows, 0, StepOf(StepKind::kExpertSum), forced.data());
  CHECK(runner.rows(Slot::kExpertIn) == 10);
  int mine = 0;
  for (size_t i = 0; i < 10; ++i) {
    const float* in = runner.slot(Slot::kExpertIn) + static_cast<int64_t>(i) * kHidden;
    CHECK(std::equal(in, in + kHidden, runner.slot(Slot::kNormed) + ten.token[i] * kHidden));
    float want = 0;
    for (auto row = static_cast<size_t>(own.begin[3]); row < static_cast<size_t>(own.begin[4]);
         ++row) {
      if (own.token[row] == ten.token[i]) want = own.weight[row];
    }
    CHECK(runner.routing().weight[i] == want);
    mine += want != 0;
  }
  CHECK(mine > 0);
  CHECK(mine < 10);
  runner.ForceRouting(nullptr);
  forced = start;
  runner.Run({}, weights, windows, 0, AllSteps(), forced.data());
  CHECK(forced == free);
}

TEST_CASE("experts: routers that cannot choose still route every token") {
  TestModel model = RandomModel(15, false, "mixtral");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  LayerWeights weights = Load(model, 0);
  Weight& router = weights.at({"model.layers.{}.block_sparse_moe.gate.weight"});
  const std::vector<float> values(static_cast<size_t>(kExperts * kHidden), nan);
  std::memcpy(router.data.data(), values.data(), router.data.size());
  std::vector<float> hidden = RandomHidden(1, 8);
  LayerRunner runner(Mixtral(), model.config);
  const std::vector<int64_t> windows = {8};
  runner.Run({}, weights, windows, 0, AllSteps(), hidden.data());
  CHECK(runner.rows(Slot::kExpertIn) == 16);
  CHECK(runner.routing().begin == std::vector<int64_t>{0, 8, 16, 16, 16, 16});
  CHECK(std::isnan(hidden[0]));
}

TEST_CASE("experts: configurations that cannot be run") {
  ModelConfig config = RandomModel(16, true, "mixtral").config;
  CHECK(CheckRunnable(config).ok());
  for (const int64_t per_token : {0, -1, 6}) {
    config.experts_per_token = per_token;
    const Status status = CheckRunnable(config);
    REQUIRE(!status.ok());
    CHECK(status.error().code == ErrorCode::kConfigInvalid);
  }
  config.experts_per_token = 5;
  CHECK(CheckRunnable(config).ok());
  config.experts = -5;
  CHECK(!CheckRunnable(config).ok());
}

TEST_CASE("experts: tensors that contradict the configuration are refused by name") {
  TestModel model = RandomModel(17, false, "mixtral");
  const auto load = [&] { return LoadLayer(*model.source, Mixtral(), model.config, 1); };
  CHECK(Load(model, 1).size() == 7 + 3 * kExperts);
  model.config.experts = 6;
  auto result = load();
  REQUIRE(!result.ok());
  CHECK(result.error().code == ErrorCode::kInvalidTensor);
  CHECK(result.error().tensor == "model.layers.1.block_sparse_moe.gate.weight");
  CHECK(result.error().message.find("[5, 24]") != std::string::npos);
  CHECK(result.error().message.find("[6, 24]") != std::string::npos);
  model.config.experts = 5;
  model.source->Remove("model.layers.1.block_sparse_moe.experts.4.w3.weight");
  result = load();
  REQUIRE(!result.ok());
  CHECK(result.error().code == ErrorCode::kTensorMissing);
  CHECK(result.error().tensor == "model.layers.1.block_sparse_moe.experts.4.w3.weight");
}

// After how many tokens of prompt and continuation the reference counted is not told: its figures
// are those of the last run of its greedy loop, over all ids but the last.
TEST_CASE("experts: the load of each expert is the reference's") {
  const auto model = TestModel::Open("pd-mixtral-4M");
  if (!model) return;
  const RunnableModel runnable = model->Runnable();
  std::vector<int32_t> ids;
  for (const Json& id : model->reference.Find("prompt_ids")->items()) {
    ids.push_back(static_cast<int32_t>(*id.AsInteger()));
  }
  const auto generation = Generate({}, runnable, ids, 32, std::vector<int32_t>{1, 2});
  REQUIRE(generation.ok());
  ids.insert(ids.end(), generation->ids.begin(), generation->ids.end());
  ids.pop_back();
  std::vector<float> hidden(ids.size() * 256);
  REQUIRE(EmbedTokens(*model->source, Mixtral(), model->config, ids, hidden.data()).ok());
  LayerRunner runner(Mixtral(), model->config);
  const std::vector<int64_t> windows = {static_cast<int64_t>(ids.size())};
  const Json& want = *model->reference.Find("expert_load_last_prompt");
  for (int64_t layer = 0; layer < model->config.layers; ++layer) {
    const auto weights = LoadLayer(*model->source, Mixtral(), model->config, layer);
    REQUIRE(weights.ok());
    runner.Run({}, *weights, windows, 0, AllSteps(), hidden.data());
    for (size_t e = 0; e < 4; ++e) {
      CHECK(runner.routing().begin[e + 1] - runner.routing().begin[e] ==
            *want.items()[static_cast<size_t>(layer)].items()[e].AsInteger());
    }
  }
}

}  // namespace
}  // namespace pennyweight
