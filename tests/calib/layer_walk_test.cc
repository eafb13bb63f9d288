// The calibrated walk on small models of random weights.
#include "calib/layer_walk.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>

#include "calib/quantize_model.h"
#include "quant/codec.h"
#include "test_model.h"

namespace pennyweight {
namespace {

// Keeps every tile's decoded values.
class MemorySink : public TensorSink {
 public:
  Status Begin(const std::vector<OutputTensor>& tensors) override {
    for (const OutputTensor& t : tensors) {
      names_.push_back(t.name);
      values_.emplace_back(static_cast<size_t>(*ElementCount(t.shape)));
    }
    return OkStatus();
  }
  Status Write(size_t index, int64_t row, const EncodedTensor& tile) override {
    DecodeRows(tile, 0, tile.rows, values_[index].data() + row * tile.cols);
    return OkStatus();
  }
  Status Seal() override { return OkStatus(); }
  Status Commit() override { return OkStatus(); }
  std::string OutputName(size_t index) const override { return names_[index]; }
  uint64_t OutputBytes(size_t) const override { return 1; }
  uint64_t TotalBytes() const override { return 1; }

  std::vector<std::string> names_;
  std::vector<std::vector<float>> values_;
};

struct Bench {
  Model model;
  Windows windows;
  std::vector<Choice> choices;

  // `count` windows of 40 ids.
  explicit Bench(unsigned seed, const std::string& family = "llama", int count = 24) {
    TestModel random = RandomModel(seed, true, family);
    model.source = std::move(random.source);
    model.config = random.config;
    model.family = FindFamily(family);
    std::mt19937 ids(seed + 1);
    for (int i = 0; i < 40 * count; ++i) {
      windows.ids.push_back(static_cast<int32_t>(ids() % 5000));
    }
    windows.lengths.assign(count, 40);
    windows.first_scored.assign(count, 20);
    for (const TensorInfo& info : model.source->tensors()) {
      Choice choice;
      const TensorPlace place = PlaceOfHf(*model.family, info.name);
      choice.quantize = place.rule != nullptr && IsLayerLinear(place.rule->role);
      choice.encoding =
          choice.quantize ? *FindType("int3", {.group_size = 8}) : Encoding::Plain(DType::kF32);
      choices.push_back(choice);
    }
  }
  MemorySource& memory() { return static_cast<MemorySource&>(*model.source); }

  struct Outcome {
    Report report;
    std::vector<std::vector<float>> values;
    const TensorReport& Row(const std::string& name) const {
      for (const TensorReport& t : report.tensors) {
        if (t.name == name) return t;
      }
      FAIL(name);
      return report.tensors[0];
    }
  };
  Result<Outcome> Run(const Context& context, QuantizeOptions options) {
    MemorySink sink;
    std::vector<OutputTensor> outputs;
    for (size_t i = 0; i < choices.size(); ++i) {
      const TensorInfo& info = model.source->tensors()[i];
      outputs.push_back({info.name, choices[i].encoding, info.shape});
    }
    REQUIRE(sink.Begin(outputs).ok());
    options.windows = &windows;
    PW_ASSIGN(Report report, QuantizeModel(context, model, choices, options, &sink));
    return Outcome{std::move(report), std::move(sink.values_)};
  }
  Outcome Get(Method method, bool all_experts = false, const Context& context = {}) {
    QuantizeOptions options;
    options.method = method;
    options.all_experts = all_experts;
    auto outcome = Run(context, options);
    REQUIRE_MESSAGE(outcome.ok(), (outcome.ok() ? "" : outcome.error().ToString()));
    return std::move(outcome).value();
  }
};

// The layer's error as its candidates foretold it.
void CheckChosen(const LayerReport& layer) {
  REQUIRE(layer.chosen);
  REQUIRE(layer.hidden_rel_error);
  for (const LayerReport::Candidate& candidate : layer.candidates) {
    REQUIRE(candidate.hidden_rel_error);
    if (candidate.name == layer.chosen) {
      CHECK(*candidate.hidden_rel_error == doctest::Approx(*layer.hidden_rel_error).epsilon(1e-6));
    }
  }
}

TEST_CASE("walk: auto tries every candidate on every layer and keeps one") {
  Bench bench(30);
  const Bench::Outcome outcome = bench.Get(Method::kAuto);
  REQUIRE(outcome.report.layers.size() == 3);
  for (const LayerReport& layer : outcome.report.layers) {
    REQUIRE(layer.candidates.size() >= 2);
    CHECK(layer.candidates[0].name == "rtn");
    CHECK(layer.candidates[1].name == "gptq");
    CheckChosen(layer);
    CHECK(*layer.hidden_rel_error < *layer.hidden_rel_error_rtn);
    CHECK(*layer.hidden_rel_error > 0);
  }
  for (const TensorReport& t : outcome.report.tensors) {
    if (!IsLayerLinear(t.role)) continue;
    CAPTURE(t.name);
    CHECK(t.tokens == 40 * 21);
    CHECK(t.output_rel_error);
    CHECK(t.output_rel_error_heldout);
    CHECK_FALSE(t.fallback);
  }
}

TEST_CASE("walk: a single method has no candidates, and is what auto's own candidate is") {
  Bench bench(31);
  const Bench::Outcome rtn = bench.Get(Method::kRtn), gptq = bench.Get(Method::kGptq);
  CHECK(rtn.report.layers[0].candidates.empty());
  CHECK(gptq.report.layers[0].chosen == "gptq");
  const Bench::Outcome both = bench.Get(Method::kAuto);
  // The first layer begins the same for all.
  const LayerReport& first = both.report.layers[0];
  CHECK(*first.candidates[0].hidden_rel_error ==
        doctest::Approx(*rtn.report.layers[0].hidden_rel_error).epsilon(1e-6));
  CHECK(*first.hidden_rel_error_rtn ==
        doctest::Approx(*rtn.report.layers[0].hidden_rel_error).epsilon(1e-6));
}

TEST_CASE("walk: neither threads nor memory change a value") {
  for (const std::string family : {"llama", "mixtral"}) {
    Bench bench(32, family);
    const Bench::Outcome one = bench.Get(Method::kAuto);
    Context threads;
    threads.threads = 3;
    CHECK(bench.Get(Method::kAuto, false, threads).values == one.values);
    // The least that is enough: hidden states spill, experts are summed one after the other.
    WalkInput input;
    input.model = &bench.model;
    input.windows = &bench.windows;
    input.choices = bench.choices;
    Context little;
    little.memory_limit = LayerWalk::WorkingBytes(input);
    QuantizeOptions options;
    options.scratch_dir = "/tmp";
    const auto spilled = bench.Run(little, options);
    REQUIRE(spilled.ok());
    CHECK(spilled->values == one.values);
    little.memory_limit -= 1;
    const auto refused = bench.Run(little, options);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().code == ErrorCode::kMemory);
  }
}

TEST_CASE("walk: every expert learns from the tokens that reach it") {
  Bench bench(33, "mixtral");
  const Bench::Outcome outcome = bench.Get(Method::kAuto);
  const std::vector<ExpertCoverage> coverage = CoverageOf(outcome.report);
  REQUIRE(coverage.size() == 15);
  for (int64_t layer = 0; layer < 3; ++layer) {
    int64_t tokens = 0;
    for (int64_t e = 0; e < 5; ++e) {
      const ExpertCoverage& row = coverage[static_cast<size_t>(5 * layer + e)];
      CHECK(row.layer == layer);
      CHECK(row.expert == e);
      CHECK(row.tokens < 40 * 21);
      tokens += row.tokens;
    }
    CHECK(tokens == 2 * 40 * 21);
    CheckChosen(outcome.report.layers[static_cast<size_t>(layer)]);
  }
  CHECK_FALSE(outcome.Row("model.layers.1.block_sparse_moe.gate.weight").tokens);
  CHECK(outcome.Row("model.layers.1.block_sparse_moe.gate.weight").method == "copy");
  for (const ExpertCoverage& row : CoverageOf(bench.Get(Method::kGptq, true).report)) {
    CHECK(row.tokens == 40 * 21);
  }
}

TEST_CASE("walk: an expert that no token reaches takes what the layer has in common, and says so") {
  Bench bench(34, "mixtral");
  // Channel 0 of every token is large and positive; the router turns away from expert 3 by it.
  auto& embedding = bench.memory().data("model.embed_tokens.weight");
  for (size_t id = 0; id < 5000; ++id) {
    reinterpret_cast<float*>(embedding.data())[id * 24] = 30;
  }
  const std::string gate = "model.layers.0.block_sparse_moe.gate.weight";
  reinterpret_cast<float*>(bench.memory().data(gate).data())[3 * 24] = -100;
  const Bench::Outcome outcome = bench.Get(Method::kGptq);
  const std::string expert = "model.layers.0.block_sparse_moe.experts.3.";
  for (const char* const part : {"w1.weight", "w2.weight", "w3.weight"}) {
    const TensorReport& row = outcome.Row(expert + part);
    CHECK(row.tokens == 0);
    CHECK(row.expert == 3);
    REQUIRE(row.fallback);
    CHECK(row.fallback->find("no calibration token reached this expert") != std::string::npos);
    CHECK(row.weight_rel_mse < 0.2);
  }
  CHECK_FALSE(outcome.Row("model.layers.0.block_sparse_moe.experts.2.w1.weight").fallback);
  CHECK_FALSE(bench.Get(Method::kGptq, true).Row(expert + "w1.weight").fallback);
}

TEST_CASE("walk: activations that are not finite are named with layer, weight and token") {
  Bench bench(35);
  // Finite as weights, too large as what they give.
  const std::string name = "model.layers.1.post_attention_layernorm.weight";
  auto* gain = reinterpret_cast<float*>(bench.memory().data(name).data());
  std::fill_n(gain, 24, 3e38f);
  for (const Method method : {Method::kRtn, Method::kGptq, Method::kAuto}) {
    QuantizeOptions options;
    options.method = method;
    const auto outcome = bench.Run({}, options);
    REQUIRE_FALSE(outcome.ok());
    const Error& error = outcome.error();
    CAPTURE(error.ToString());
    CHECK(error.code == ErrorCode::kNonFinite);
    CHECK(error.tensor == name);
    CHECK(error.message.find("layer 1") != std::string::npos);
    CHECK(error.message.find("token 0") != std::string::npos);
  }
}

TEST_CASE("walk: folds are on record, and undone they leave the weight errors of the report") {
  Bench bench(38);
  // Channels that stand out: what the rewrite is made for.
  for (const int layer : {0, 1, 2}) {
    const std::string norm = "model.layers." + std::to_string(layer) + ".input_layernorm.weight";
    auto* gain = reinterpret_cast<float*>(bench.memory().data(norm).data());
    gain[3] = 12;
    gain[17] = 25;
  }
  FoldRecord record;
  QuantizeOptions options;
  options.method = Method::kAwq;
  options.folds = &record;
  const auto outcome = bench.Run({}, options);
  REQUIRE(outcome.ok());
  CHECK(outcome->report.layers[0].chosen == "awq+rtn");
  REQUIRE_FALSE(record.empty());
  const auto folds = FoldsOf(record, *bench.model.source);
  REQUIRE(folds.ok());
  int checked = 0;
  for (const auto& [index, fold] : *folds) {
    const TensorInfo& info = bench.model.source->tensors()[index];
    std::vector<float> values = outcome->values[index], original(values.size());
    REQUIRE(ReadFloatRows(*bench.model.source, index, 0, info.rows(), original.data()).ok());
    ApplyFold(Inverse(fold), 0, info.rows(), info.cols(), values.data());
    WeightError error;
    error.Add(original.data(), values.data(), info.elements());
    if (!bench.choices[index].quantize) {
      CHECK(error.RelMse() < 1e-12);  // a norm
      continue;
    }
    ++checked;
    CHECK(error.RelMse() ==
          doctest::Approx(*outcome->report.tensors[index].weight_rel_mse).epsilon(1e-3));
  }
  CHECK(checked > 0);
  // What it is for.
  CHECK(*outcome->report.layers[0].hidden_rel_error <
        *bench.Get(Method::kRtn).report.layers[0].hidden_rel_error);
}

// Lists tensors and has none.
class ListedSource : public TensorSource {
 public:
  void Add(const std::string& name, Shape shape) {
    TensorInfo info;
    info.name = name;
    info.encoding = Encoding::Plain(DType::kBF16);
    info.shape = std::move(shape);
    tensors_.push_back(std::move(info));
  }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  Status ReadRows(size_t, int64_t, int64_t, EncodedTensor*) const override {
    return Error(ErrorCode::kIo, "there is nothing to read");
  }
  std::string_view format() const override { return "list"; }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  const std::vector<std::string>& files() const override { return files_; }

 private:
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
  std::vector<std::string> files_;
};

TEST_CASE("walk: a layer of 70B parameters' model takes less than 12 GiB") {
  Bench bench(39);
  ModelConfig& c = *bench.model.config;
  c.hidden_size = 8192;
  c.intermediate_size = 28672;
  c.heads = 64;
  c.kv_heads = 8;
  c.head_dim = 128;
  c.layers = 80;
  auto source = std::make_unique<ListedSource>();
  bench.choices.clear();
  for (const TensorRule& rule : bench.model.family->tensors) {
    if (!IsLayerLinear(rule.role)) continue;
    const int64_t kv = 1024;
    const Shape shape = rule.role == Role::kAttnK || rule.role == Role::kAttnV ? Shape{kv, 8192}
                        : rule.role == Role::kFfnDown                          ? Shape{8192, 28672}
                        : rule.role == Role::kFfnGate || rule.role == Role::kFfnUp
                            ? Shape{28672, 8192}
                            : Shape{8192, 8192};
    source->Add(NameFor(rule.hf, 0), shape);
    Choice& choice = bench.choices.emplace_back();
    choice.encoding = *FindType("int4", {.group_size = 128});
    choice.quantize = true;
  }
  REQUIRE(bench.choices.size() == 7);
  bench.model.source = std::move(source);
  bench.windows.ids.assign(16384, 1);
  bench.windows.lengths.assign(32, 512);
  WalkInput input;
  input.model = &bench.model;
  input.windows = &bench.windows;
  input.choices = bench.choices;
  input.method = Method::kGptq;
  const double gib = 1ull << 30;
  const double bytes = static_cast<double>(LayerWalk::WorkingBytes(input)) +
                       static_cast<double>(LayerWalk::HiddenBytes(input));
  CHECK(bytes < 12 * gib);
  // The weights as stored, encoded once, and the widest Hessian are there in any case.
  CHECK(bytes > (0.856 * 3e9) + 28672.0 * 28672 * 4);
}

TEST_CASE("walk: without held-out windows auto is gptq") {
  Bench bench(36, "llama", 5);
  const Bench::Outcome outcome = bench.Get(Method::kAuto);
  CHECK(outcome.report.layers[0].chosen == "gptq");
  CHECK_FALSE(outcome.report.layers[0].hidden_rel_error);
}

TEST_CASE("walk: a tensor of another shape than the configuration says is an error") {
  Bench bench(37);
  bench.model.config->intermediate_size = 41;
  QuantizeOptions options;
  const auto outcome = bench.Run({}, options);
  REQUIRE_FALSE(outcome.ok());
  CHECK(outcome.error().code == ErrorCode::kInvalidTensor);
}

}  // namespace
}  // namespace pennyweight
