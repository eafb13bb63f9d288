#include "calib/cost_model.h"

#include <doctest/doctest.h>

#include "tests/calib/test_model.h"

namespace pennyweight {
namespace {

constexpr double kFree = 1e30;  // work that takes no time

CostRates FreeRates() {
  CostRates rates;
  rates.gemm = rates.syrk = rates.factor = rates.solve = kFree;
  rates.elements = rates.read = rates.write = kFree;
  return rates;
}

// A model of hidden 24, ffn 40 and 3 layers, and 16 windows of 64 tokens, 2 of them held out.
struct Bench {
  Bench() {
    TestModel made = RandomModel(7, false);
    config = made.config;
    model.source = std::move(made.source);
    model.config = config;
    model.family = FindFamily("llama");
    windows.ids.resize(1024);
    windows.lengths.assign(16, 64);
    windows.first_scored.assign(16, 1);
    for (const TensorInfo& info : model.source->tensors()) {
      Choice choice;
      choice.quantize = IsLayerLinear(PlaceOfHf(*model.family, info.name).rule->role);
      choice.encoding = choice.quantize ? type : Encoding::Plain(DType::kF16);
      choices.push_back(choice);
    }
    input.model = &model;
    input.windows = &windows;
    input.choices = choices;
    input.method = Method::kGptq;
  }
  double Phase(const CostRates& rates, std::string_view name) const {
    for (const auto& [phase, seconds] : PredictCost(context, input, rates, 1000).phases) {
      if (phase == name) return seconds;
    }
    FAIL("no such phase");
    return 0;
  }

  Encoding type = Encoding::Integer({.bits = 4, .group_size = 8});
  ModelConfig config;
  Model model;
  Windows windows;
  std::vector<Choice> choices;
  Context context;
  WalkInput input;
};

TEST_CASE("operations of a walk, counted by hand") {
  Bench bench;
  CostRates rates = FreeRates();
  rates.types[bench.type.Name()] = {kFree, kFree, kFree, kFree, kFree, kFree};

  // Inputs of 24 (q k v; o; gate up) and 40 (down), on 14 windows, in 3 layers.
  CostRates one = rates;
  one.syrk = 1;
  CHECK(bench.Phase(one, "hessian") == doctest::Approx(3.0 * 896 * (3 * 576 + 1600)));
  one = rates;
  one.factor = one.solve = 1;
  const double cubes = 3 * 24.0 * 24 * 24 + 40.0 * 40 * 40;
  CHECK(bench.Phase(one, "factor") == doctest::Approx(3 * cubes * (1.0 / 3 + 2)));

  // On the way to the inputs of o, gate and down, and to the end: q k v and attention twice, gate
  // and up twice, the others once; both models. rtn's held-out tokens go through once.
  one = rates;
  one.gemm = 1;
  const double qkv = 2 * (576 + 2 * 288), o = 2 * 576, gate_up = 4 * 960, down = 2 * 960;
  const double attention = 3 * 4 * (16 * 64.0 * 64 / 2) * 24;
  const double both = 2 * (1024 * (2 * qkv + o + 2 * gate_up + down) + 2 * attention);
  const double rtn = (1024 * (qkv + o + gate_up + down) + attention) / 8;
  CHECK(bench.Phase(one, "forward") == doctest::Approx(3 * (both + rtn)));

  // Weights of a layer, under each way to quantize them.
  const double weights = 2 * 576 + 2 * 288 + 3 * 960;
  one = rates;
  one.types[bench.type.Name()] = {2, 4, 8, kFree, kFree, kFree};
  CHECK(bench.Phase(one, "quantize") ==
        doctest::Approx(3 * weights * (1 / 2.0 + 1 / 4.0 + 1 / 8.0)));

  // What gptq makes of the factor of each input, and its products with it.
  CostRates factors = rates;
  factors.types[bench.type.Name()] = {kFree, kFree, kFree, kFree, 2, kFree};
  CHECK(bench.Phase(factors, "quantize") == doctest::Approx(3 * (3 * 576 + 1600) / 2.0));
  factors.types[bench.type.Name()] = {kFree, kFree, kFree, 2, kFree, kFree};
  CHECK(bench.Phase(factors, "quantize") ==
        doctest::Approx(3 * ((weights - 960) * 24 + 960 * 40) / 2.0));

  // Four candidates, which share what the first stage reads.
  bench.input.method = Method::kAuto;
  CHECK(bench.Phase(one, "quantize") ==
        doctest::Approx(3 * weights * (4 / 2.0 + 4 / 4.0 + 2 / 8.0)));
  CHECK(bench.Phase(one, "search") > 0);
  one.syrk = 1;
  CHECK(bench.Phase(one, "hessian") == doctest::Approx(3.0 * 896 * (576 + 4 * (2 * 576 + 1600))));

  bench.input.method = Method::kMinMax;
  bench.input.windows = nullptr;
  CHECK(bench.Phase(one, "quantize") == doctest::Approx(3 * weights / 4));
  CHECK(bench.Phase(one, "forward") == 0);
  CHECK(bench.Phase(one, "hessian") == 0);
  one.write = 10;
  CHECK(bench.Phase(one, "writing") == doctest::Approx(100));
}

TEST_CASE("memory is what the walk itself asks for, and hidden states go to the disk") {
  Bench bench;
  const uint64_t working = LayerWalk::WorkingBytes(bench.input);
  const uint64_t hidden = LayerWalk::HiddenBytes(bench.input);
  CostPlan plan = PredictCost(bench.context, bench.input, FreeRates(), 1000);
  CHECK(plan.peak_rss_bytes == working + hidden);
  CHECK(plan.scratch_bytes == 2 * hidden);
  CHECK(plan.fits);
  CHECK(plan.output_bytes == 1000);
  bench.context.memory_limit = working + hidden - 1;
  plan = PredictCost(bench.context, bench.input, FreeRates(), 1000);
  CHECK(plan.peak_rss_bytes == working);
  CHECK(plan.scratch_bytes == 3 * hidden);
  CHECK(plan.fits);
  bench.context.memory_limit = working - 1;
  CHECK_FALSE(PredictCost(bench.context, bench.input, FreeRates(), 1000).fits);
}

TEST_CASE("a probe measures what it is asked for") {
  Context context;
  const std::vector<Encoding> types = {Encoding::Block(BlockType::kQ4_K),
                                       Encoding::Integer({.bits = 4, .group_size = 128})};
  const auto rates = ProbeSpeed(context, types, true, true, Effort::kNormal);
  REQUIRE(rates.ok());
  for (const double rate : {rates->gemm, rates->syrk, rates->factor, rates->solve}) {
    CHECK(rate > 1e6);
    CHECK(rate < 1e16);
  }
  for (const Encoding& type : types) {
    const CostRates::Type& found = rates->types.at(type.Name());
    for (const double rate : {found.rtn, found.minmax, found.gptq, found.gptq_plan, found.decode}) {
      CHECK(rate > 1e3);
      CHECK(rate < 1e13);
    }
  }
  const auto plain = ProbeSpeed(context, types, false, true, Effort::kNormal);
  REQUIRE(plain.ok());
  CHECK(plain->gemm == 0);
  CHECK(plain->types.at("q4_k").gptq == 0);
}

}  // namespace
}  // namespace pennyweight
