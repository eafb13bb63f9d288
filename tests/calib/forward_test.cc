#include "calib/forward.h"

#include <cmath>
#include <limits>

#include "tests/calib/test_model.h"

namespace pennyweight {
namespace {

using Matrix = std::vector<std::vector<double>>;  // [tokens][width]

std::vector<double> Values(const MemorySource& source, const std::string& name) {
  const int64_t index = source.Find(name);
  if (index < 0) return {};
  EncodedTensor rows;
  const TensorInfo& info = source.tensors()[static_cast<size_t>(index)];
  REQUIRE(source.ReadRows(static_cast<size_t>(index), 0, info.rows(), &rows).ok());
  std::vector<float> floats(static_cast<size_t>(info.elements()));
  DecodeToFloat(info.encoding.dtype, rows.data.data(), floats.data(), floats.size());
  return {floats.begin(), floats.end()};
}

// A decoder layer by its definition, in double, of one window.
class ReferenceLayer {
 public:
  ReferenceLayer(const TestModel& model, int layer, std::vector<double> frequencies)
      : model_(model),
        prefix_("model.layers." + std::to_string(layer) + "."),
        frequencies_(std::move(frequencies)) {}

  Matrix Run(Matrix hidden) const {
    const Matrix normed = Norm(hidden, "input_layernorm.weight");
    const Matrix q = Rotated(Product(normed, "self_attn.q_proj"));
    const Matrix k = Rotated(Product(normed, "self_attn.k_proj"));
    Add(&hidden, Product(Attention(q, k, Product(normed, "self_attn.v_proj")), "self_attn.o_proj"));
    const Matrix second = Norm(hidden, "post_attention_layernorm.weight");
    Matrix gate = Product(second, "mlp.gate_proj");
    const Matrix up = Product(second, "mlp.up_proj");
    for (size_t t = 0; t < gate.size(); ++t) {
      for (size_t i = 0; i < gate[t].size(); ++i) {
        gate[t][i] *= up[t][i] / (1 + std::exp(-gate[t][i]));
      }
    }
    Add(&hidden, Product(gate, "mlp.down_proj"));
    return hidden;
  }

 private:
  Matrix Norm(const Matrix& in, const std::string& name) const {
    const std::vector<double> weight = Values(*model_.source, prefix_ + name);
    Matrix out = in;
    for (auto& row : out) {
      double squares = 0;
      for (const double v : row) squares += v * v;
      const double rms =
          std::sqrt(squares / static_cast<double>(row.size()) + model_.config.rms_norm_eps);
      for (size_t i = 0; i < row.size(); ++i) row[i] *= weight[i] / rms;
    }
    return out;
  }
  Matrix Product(const Matrix& in, const std::string& name) const {
    const std::vector<double> weight = Values(*model_.source, prefix_ + name + ".weight");
    const std::vector<double> bias = Values(*model_.source, prefix_ + name + ".bias");
    const size_t cols = in[0].size();
    Matrix out(in.size(), std::vector<double>(weight.size() / cols));
    for (size_t t = 0; t < in.size(); ++t) {
      for (size_t r = 0; r < out[t].size(); ++r) {
        if (!bias.empty()) out[t][r] = bias[r];
        for (size_t c = 0; c < cols; ++c) out[t][r] += weight[r * cols + c] * in[t][c];
      }
    }
    return out;
  }
  Matrix Rotated(const Matrix& in) const {
    const size_t half = frequencies_.size();
    Matrix out = in;
    for (size_t t = 0; t < in.size(); ++t) {
      for (size_t head = 0; head < in[t].size(); head += 2 * half) {
        for (size_t i = 0; i < half; ++i) {
          const double angle = static_cast<double>(t) * frequencies_[i];
          const double x = in[t][head + i], y = in[t][head + half + i];
          out[t][head + i] = x * std::cos(angle) - y * std::sin(angle);
          out[t][head + half + i] = y * std::cos(angle) + x * std::sin(angle);
        }
      }
    }
    return out;
  }
  Matrix Attention(const Matrix& q, const Matrix& k, const Matrix& v) const {
    const size_t dim = 2 * frequencies_.size();
    const size_t group = q[0].size() / k[0].size();
    Matrix out(q.size(), std::vector<double>(q[0].size()));
    for (size_t h = 0; h < q[0].size() / dim; ++h) {
      const size_t at = h * dim, kv = h / group * dim;
      for (size_t t = 0; t < q.size(); ++t) {
        std::vector<double> weights(t + 1);
        double sum = 0;
        for (size_t s = 0; s <= t; ++s) {
          double dot = 0;
          for (size_t i = 0; i < dim; ++i) dot += q[t][at + i] * k[s][kv + i];
          sum += weights[s] = std::exp(dot / std::sqrt(static_cast<double>(dim)));
        }
        for (size_t s = 0; s <= t; ++s) {
          for (size_t i = 0; i < dim; ++i) out[t][at + i] += weights[s] / sum * v[s][kv + i];
        }
      }
    }
    return out;
  }
  static void Add(Matrix* to, const Matrix& from) {
    for (size_t t = 0; t < to->size(); ++t) {
      for (size_t i = 0; i < (*to)[t].size(); ++i) (*to)[t][i] += from[t][i];
    }
  }

  const TestModel& model_;
  std::string prefix_;
  std::vector<double> frequencies_;
};

std::vector<float> RandomHidden(unsigned seed, int64_t tokens, int64_t width) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> hidden(static_cast<size_t>(tokens * width));
  for (float& v : hidden) v = normal(random);
  return hidden;
}

LayerWeights Load(const TestModel& model, int64_t layer) {
  auto weights = LoadLayer(*model.source, *FindFamily("llama"), model.config, layer);
  REQUIRE(weights.ok());
  return std::move(weights).value();
}

// Runs windows through a layer at once, and each through the reference; the largest difference.
double LargestError(const TestModel& model, const std::vector<int64_t>& windows,
                    const std::vector<double>& frequencies, int threads) {
  const int64_t width = model.config.hidden_size;
  int64_t tokens = 0;
  for (const int64_t n : windows) tokens += n;
  std::vector<float> hidden = RandomHidden(7, tokens, width);
  const std::vector<float> before = hidden;
  LayerRunner runner(*FindFamily("llama"), model.config);
  Context context;
  context.threads = threads;
  runner.Run(context, Load(model, 1), windows, 0, FindFamily("llama")->layer.size(), hidden.data());
  const ReferenceLayer reference(model, 1, frequencies);
  double worst = 0;
  size_t at = 0;
  for (const int64_t n : windows) {
    Matrix rows(static_cast<size_t>(n), std::vector<double>(static_cast<size_t>(width)));
    for (size_t i = 0; i < static_cast<size_t>(n * width); ++i) {
      rows[i / static_cast<size_t>(width)][i % static_cast<size_t>(width)] =
          static_cast<double>(before[at + i]);
    }
    for (const auto& row : reference.Run(std::move(rows))) {
      for (const double v : row) {
        const double error = std::abs(static_cast<double>(hidden[at++]) - v);
        worst =
            std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
      }
    }
  }
  return worst;
}

std::vector<double> PlainFrequencies() {
  return {1.0, std::pow(10000.0, -1.0 / 3), std::pow(10000.0, -2.0 / 3)};
}

TEST_CASE("forward: a layer equals its definition, windows of every size at once") {
  const TestModel model = RandomModel(1, false);
  CHECK(LargestError(model, {130, 1, 64, 65, 3}, PlainFrequencies(), 1) < 1e-4);
  CHECK(LargestError(model, {130, 1, 64, 65, 3}, PlainFrequencies(), 2) < 1e-4);
  // The comparison can fail: other frequencies are far away.
  CHECK(LargestError(model, {130}, {1.0, 0.05, 0.002}, 1) > 1e-2);
}

TEST_CASE("forward: biases are added") {
  TestModel model = RandomModel(2, false);
  for (const auto& [name, n] :
       std::vector<std::pair<std::string, int64_t>>{{"self_attn.q_proj", 24},
                                                    {"self_attn.k_proj", 12},
                                                    {"self_attn.o_proj", 24},
                                                    {"mlp.down_proj", 24}}) {
    model.source->AddFloats("model.layers.1." + name + ".bias", {n}, RandomHidden(9, n, 1));
  }
  CHECK(LargestError(model, {70, 5}, PlainFrequencies(), 1) < 1e-4);
  model.source->AddFloats("model.layers.1.mlp.up_proj.bias", {39}, RandomHidden(9, 39, 1));
  const auto bad = LoadLayer(*model.source, *FindFamily("llama"), model.config, 1);
  REQUIRE(!bad.ok());
  CHECK(bad.error().code == ErrorCode::kInvalidTensor);
}

TEST_CASE("forward: linear and Llama 3 scaling of positions") {
  TestModel model = RandomModel(3, true);
  RopeScaling& scaling = model.config.rope_scaling;
  scaling.kind = RopeScaling::Kind::kLinear;
  scaling.factor = 4;
  std::vector<double> linear = PlainFrequencies();
  for (double& f : linear) f /= 4;
  CHECK(LargestError(model, {200}, linear, 1) < 1e-4);
  scaling = {RopeScaling::Kind::kLlama3, 8, 1, 4, 256};
  // transformers' _compute_llama3_parameters for these five numbers: one frequency of each band.
  CHECK(LargestError(model, {200}, {1.0, 0.017866387963294983, 0.0002693042915780097}, 1) < 1e-4);
}

TEST_CASE("forward: same bits for any number of threads, and in two parts") {
  const TestModel model = RandomModel(4, false);
  const std::vector<int64_t> windows = {90, 33, 128};
  const LayerWeights weights = Load(model, 2);
  const std::vector<float> start = RandomHidden(5, 251, 24);
  const size_t steps = FindFamily("llama")->layer.size();
  std::vector<float> once = start;
  LayerRunner runner(*FindFamily("llama"), model.config);
  runner.Run({}, weights, windows, 0, steps, once.data());
  Context two;
  two.threads = 2;
  std::vector<float> threaded = start;
  LayerRunner other(*FindFamily("llama"), model.config);
  other.Run(two, weights, windows, 0, steps, threaded.data());
  CHECK(threaded == once);
  for (size_t cut = 0; cut <= steps; ++cut) {
    std::vector<float> parts = start;
    runner.Run({}, weights, windows, 0, cut, parts.data());
    runner.Run({}, weights, windows, cut, steps, parts.data());
    CHECK(parts == once);
  }
}

TEST_CASE("forward: slots hold what each linear read") {
  const TestModel model = RandomModel(4, false);
  const LayerWeights weights = Load(model, 0);
  std::vector<float> hidden = RandomHidden(6, 20, 24);
  LayerRunner runner(*FindFamily("llama"), model.config);
  const std::vector<int64_t> windows = {20};
  runner.Run({}, weights, windows, 0, 1, hidden.data());  // the first norm
  CHECK(runner.width(Slot::kNormed) == 24);
  CHECK(runner.width(Slot::kGated) == 40);
  CHECK(runner.width(Slot::kK) == 12);
  double squares = 0, want = 0;
  const std::vector<double> gain = Values(*model.source, "model.layers.0.input_layernorm.weight");
  for (int i = 0; i < 24; ++i) {
    const double x = static_cast<double>(hidden[static_cast<size_t>(i)]);
    squares += x * x;
  }
  want = static_cast<double>(hidden[23]) * gain[23] / std::sqrt(squares / 24 + 1e-5);
  CHECK(static_cast<double>(runner.slot(Slot::kNormed)[23]) == doctest::Approx(want).epsilon(1e-5));
}

TEST_CASE("forward: weights that contradict the configuration are refused by name") {
  TestModel model = RandomModel(5, false);
  const Family& family = *FindFamily("llama");
  const auto load = [&] { return LoadLayer(*model.source, family, model.config, 0); };
  REQUIRE(load().ok());
  model.config.intermediate_size = 41;
  auto result = load();
  REQUIRE(!result.ok());
  CHECK(result.error().code == ErrorCode::kInvalidTensor);
  CHECK(result.error().tensor == "model.layers.0.mlp.gate_proj.weight");
  CHECK(result.error().message.find("[40, 24]") != std::string::npos);
  CHECK(result.error().message.find("[41, 24]") != std::string::npos);
  model.config.intermediate_size = 40;
  model.source->Remove("model.layers.0.mlp.down_proj.weight");
  result = load();
  REQUIRE(!result.ok());
  CHECK(result.error().code == ErrorCode::kTensorMissing);
  CHECK(result.error().tensor == "model.layers.0.mlp.down_proj.weight");
}

TEST_CASE("forward: 16-bit weights stay as stored; rows of ids in any order") {
  TestModel model = RandomModel(6, true);
  std::vector<float> values = RandomHidden(3, 24, 24);
  std::vector<uint8_t> half(values.size() * 2);
  EncodeFromFloat(DType::kBF16, values.data(), half.data(), values.size());
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  model.source->Remove(name);
  model.source->Add(name, DType::kBF16, {24, 24}, half);
  const auto weight = LoadWeight(*model.source, *FindFamily("llama"), model.config,
                                 "model.layers.{}.self_attn.q_proj.weight", 0);
  REQUIRE(weight.ok());
  CHECK(weight->dtype == DType::kBF16);
  CHECK(weight->data == half);

  const std::vector<int32_t> ids = {4999, 3, 3, 0, 4999, 17};
  std::vector<float> out(ids.size() * 24);
  REQUIRE(EmbedTokens(*model.source, *FindFamily("llama"), model.config, ids, out.data()).ok());
  const std::vector<double> table = Values(*model.source, "model.embed_tokens.weight");
  for (size_t i = 0; i < ids.size(); ++i) {
    for (size_t j = 0; j < 24; ++j) {
      CHECK(static_cast<double>(out[i * 24 + j]) == table[static_cast<size_t>(ids[i]) * 24 + j]);
    }
  }
  for (const int32_t bad : {5000, -1}) {
    const auto status = EmbedTokens(*model.source, *FindFamily("llama"), model.config,
                                    std::vector<int32_t>{1, bad}, out.data());
    REQUIRE(!status.ok());
    CHECK(status.error().code == ErrorCode::kTokenizer);
  }
}

TEST_CASE("forward: configurations that cannot be run") {
  const ModelConfig good = RandomModel(7, true).config;
  CHECK(CheckRunnable(good).ok());
  for (const auto& change : std::vector<void (*)(ModelConfig&)>{
           [](ModelConfig& c) { c.kv_heads = 3; }, [](ModelConfig& c) { c.kv_heads = 0; },
           [](ModelConfig& c) { c.head_dim = 5; }, [](ModelConfig& c) { c.hidden_size = -24; }}) {
    ModelConfig config = good;
    change(config);
    const Status status = CheckRunnable(config);
    REQUIRE(!status.ok());
    CHECK(status.error().code == ErrorCode::kConfigInvalid);
  }
}

}  // namespace
}  // namespace pennyweight
