#include "calib/awq_search.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

#include "calib/awq_block.h"
#include "calib/awq_scales.h"
#include "quant/codec.h"
#include "quant/method.h"
#include "tests/calib/test_model.h"

namespace pennyweight {
namespace {

std::vector<float> Normals(unsigned seed, int64_t count, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = normal(random);
  return values;
}

int64_t Channels(const FoldPoint& point, const ModelConfig& c) {
  return point.kind == FoldPoint::Kind::kNorm    ? c.hidden_size
         : point.kind == FoldPoint::Kind::kValue ? c.kv_heads * c.head_dim
                                                 : c.intermediate_size;
}

// A fold of random scales between 1/4 and 4 at every fold point.
LayerFolds RandomFolds(const TestModel& model, unsigned seed) {
  LayerFolds folds;
  for (const FoldPoint& point : FoldPointsOf(*FindFamily(model.config.family))) {
    const int64_t experts = point.per_expert ? model.config.experts : 0;
    for (int64_t e = point.per_expert ? 0 : -1; e < experts; ++e) {
      LayerFold fold;
      fold.kind = point.kind;
      fold.producer = point.producer;
      fold.consumers = point.consumers;
      fold.expert = e;
      fold.scale = Normals(++seed, Channels(point, model.config));
      for (float& s : fold.scale) s = std::exp2(std::clamp(s, -2.0f, 2.0f));
      folds.folds.push_back(std::move(fold));
    }
  }
  return folds;
}

std::vector<float> RunLayers(const TensorSource& source, const TestModel& model,
                             std::vector<float> hidden) {
  const Family& family = *FindFamily(model.config.family);
  LayerRunner runner(family, model.config);
  const std::vector<int64_t> windows = {40, 30};
  for (int64_t layer = 0; layer < model.config.layers; ++layer) {
    const auto weights = LoadLayer(source, family, model.config, layer);
    REQUIRE(weights.ok());
    runner.Run({}, *weights, windows, 0, family.layer.size(), hidden.data());
  }
  return hidden;
}

TEST_CASE("awq: folds alone leave every family's function as it is") {
  for (const char* family : {"llama", "qwen2", "mixtral"}) {
    CAPTURE(family);
    const TestModel model = RandomModel(11, true, family);
    FoldedSource folded(model.source.get(), ReadFloatRows);
    FoldRecord record;
    LayerFolds folds;
    for (int64_t layer = 0; layer < 3; ++layer) {
      folds = RandomFolds(model, 100 * static_cast<unsigned>(layer));
      REQUIRE(ApplyLayerFolds(folds, model.config, layer, &folded, &record).ok());
    }
    const std::vector<float> hidden = Normals(3, 70 * 24);
    const std::vector<float> want = RunLayers(*model.source, model, hidden);
    const std::vector<float> got = RunLayers(folded, model, hidden);
    double error = 0, total = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      error += std::pow(static_cast<double>(got[i]) - want[i], 2);
      total += std::pow(static_cast<double>(want[i]), 2);
    }
    CHECK(std::sqrt(error / total) < 1e-5);
    CHECK(got != want);
    // One fold less on one side is another function.
    const int64_t down = folded.Find(family == std::string("mixtral")
                                         ? "model.layers.2.block_sparse_moe.experts.1.w2.weight"
                                         : "model.layers.2.mlp.down_proj.weight");
    folded.SetFold(static_cast<size_t>(down), {});
    CHECK(RunLayers(folded, model, hidden) != got);

    // The record says what was folded, and no record is longer than the full one.
    const auto of = FoldsOf(record, *model.source);
    REQUIRE(of.ok());
    for (const auto& [index, fold] : *of) {
      const Fold* set = folded.FoldOf(index);
      if (static_cast<int64_t>(index) == down) continue;
      REQUIRE(set != nullptr);
      CHECK(set->col_scale == fold.col_scale);
      CHECK(set->row_scale == fold.row_scale);
    }
    for (RecordedFold& fold : record.folds) fold.scale.assign(fold.scale.size(), 2.0f);
    const FoldRecord full = FullRecord(*FindFamily(family), model.config, *model.source);
    CHECK(FoldRecordToJson(record).size() == FoldRecordToJson(full).size());

    REQUIRE(ClearLayerFolds(folds, model.config, 2, &folded).ok());
    CHECK(folded.FoldOf(static_cast<size_t>(
              folded.Find("model.layers.2.self_attn.v_proj.weight"))) == nullptr);
    CHECK(folded.FoldOf(static_cast<size_t>(
              folded.Find("model.layers.1.self_attn.v_proj.weight"))) != nullptr);
  }
}

// The first layer of a model whose normed rows have a few loud channels, with windows of hidden
// states that its search sees, and 3-bit rounding in groups of 8.
struct Bench {
  TestModel model;
  LayerWeights weights;
  std::vector<float> hidden, heldout;
  std::vector<int64_t> windows = {64, 64, 32};
  Encoding encoding;
  int rounded = 0;

  explicit Bench(const std::string& family, unsigned seed = 21)
      : model(RandomModel(seed, true, family)) {
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) {
      auto& data = model.source->data(std::string("model.layers.0.") + norm + ".weight");
      for (const size_t channel : {3, 11, 17}) {
        const float loud = 12.0f;
        std::memcpy(data.data() + channel * sizeof(float), &loud, sizeof(float));
      }
    }
    auto loaded = LoadLayer(*model.source, *FindFamily(family), model.config, 0);
    REQUIRE(loaded.ok());
    weights = std::move(loaded).value();
    hidden = Normals(seed + 1, 160 * 24);
    heldout = Normals(seed + 2, 160 * 24);
    IntegerSpec spec;
    spec.bits = 3;
    spec.group_size = 8;
    encoding = Encoding::Integer(spec);
  }

  AwqInput Input() {
    AwqInput input;
    input.family = FindFamily(model.config.family);
    input.config = &model.config;
    input.weights = &weights;
    input.windows = input.heldout_windows = windows;
    input.hidden = hidden.data();
    input.heldout = heldout.data();
    input.round = [this](std::string_view pattern, int64_t, const float* w, int64_t rows,
                         int64_t cols, std::span<const float> importance,
                         float* decoded) -> Status {
      ++rounded;
      if (pattern.ends_with("block_sparse_moe.gate.weight")) {  // routers are kept
        std::copy_n(w, rows * cols, decoded);
        return OkStatus();
      }
      EncodedTensor tile;
      PW_TRY(QuantizeRtn({}, encoding, w, rows, cols, importance, ScaleSearch::kSearch, &tile));
      DecodeRows(tile, 0, rows, decoded);
      return OkStatus();
    };
    return input;
  }
};

bool Same(const LayerFolds& a, const LayerFolds& b) {
  if (a.folds.size() != b.folds.size() || a.mappings.size() != b.mappings.size()) return false;
  for (size_t i = 0; i < a.folds.size(); ++i) {
    if (a.folds[i].scale != b.folds[i].scale || a.folds[i].producer != b.folds[i].producer) {
      return false;
    }
  }
  for (size_t i = 0; i < a.mappings.size(); ++i) {
    if (a.mappings[i].error_after != b.mappings[i].error_after) return false;
  }
  return true;
}

TEST_CASE("awq: loud channels are protected, on tokens that nothing was fitted to") {
  for (const char* family : {"llama", "qwen2", "mixtral"}) {
    CAPTURE(family);
    Bench bench(family);
    const auto folds = SearchAwq({}, bench.Input());
    REQUIRE(folds.ok());
    CHECK(folds->mappings.size() == (family == std::string("mixtral") ? 3 + 5 : 4));
    size_t kept = 0;
    for (const MappingResult& mapping : folds->mappings) {
      kept += mapping.kept;
      CHECK(mapping.error_before > 0);
      if (mapping.kept) CHECK(mapping.error_after < mapping.error_before);
      if (mapping.kept) CHECK_FALSE(mapping.rule.empty());
    }
    CHECK(kept == folds->folds.size());
    // The norms with the loud channels: much is won there.
    REQUIRE(folds->mappings[0].kept);
    CHECK(folds->mappings[0].error_after < 0.9 * folds->mappings[0].error_before);
    const LayerFold& norm = folds->folds[0];
    float loud = 0, quiet = 0;
    for (size_t i = 0; i < norm.scale.size(); ++i) {
      (i == 3 || i == 11 || i == 17 ? loud : quiet) += norm.scale[i];
    }
    CHECK(loud / 3 > 1.2f * quiet / 21);
    // Threads change nothing.
    Context two;
    two.threads = 2;
    const auto again = SearchAwq(two, bench.Input());
    REQUIRE(again.ok());
    CHECK(Same(*folds, *again));
  }
}

TEST_CASE("awq: what rounds to itself needs no fold; without held-out tokens none is kept") {
  Bench bench("llama");
  AwqInput input = bench.Input();
  input.heldout_windows = {};
  auto folds = SearchAwq({}, input);
  REQUIRE(folds.ok());
  CHECK(folds->folds.empty());
  input = bench.Input();
  input.round = [](std::string_view, int64_t, const float* w, int64_t rows, int64_t cols,
                   std::span<const float> importance, float* decoded) {
    CHECK(importance.size() == static_cast<size_t>(cols));
    for (const float h : importance) CHECK(h > 0);
    std::copy_n(w, rows * cols, decoded);
    return OkStatus();
  };
  folds = SearchAwq({}, input);
  REQUIRE(folds.ok());
  // Multiplied and divided again is the same to f32 rounding, so nothing is gained.
  for (const MappingResult& mapping : folds->mappings) CHECK(mapping.error_before < 1e-9);
}

TEST_CASE("awq: NaN activations, a failing rounding and an interruption end the search") {
  Bench bench("llama");
  bench.hidden[5] = std::numeric_limits<float>::quiet_NaN();
  auto folds = SearchAwq({}, bench.Input());
  REQUIRE_FALSE(folds.ok());
  CHECK(folds.error().code == ErrorCode::kNonFinite);
  CHECK(folds.error().tensor == "model.layers.0.self_attn.q_proj.weight");

  Bench other("llama");
  AwqInput input = other.Input();
  int calls = 0;
  input.round = [&](std::string_view, int64_t, const float* w, int64_t rows, int64_t cols,
                    std::span<const float>, float* decoded) -> Status {
    if (++calls == 5) return Error(ErrorCode::kNonFinite, "told to");
    std::copy_n(w, rows * cols, decoded);
    return OkStatus();
  };
  folds = SearchAwq({}, input);
  REQUIRE_FALSE(folds.ok());
  CHECK(folds.error().message == "told to");

  const std::atomic<bool> cancel = true;
  Context context;
  context.cancel = &cancel;
  folds = SearchAwq(context, other.Input());
  REQUIRE_FALSE(folds.ok());
  CHECK(folds.error().code == ErrorCode::kInterrupted);
}

TEST_CASE("awq: a wide block is searched on a part of it, and decided on the whole") {
  Bench bench("llama", 31);
  // ffn 2048 instead of 40: more than the search looks at.
  const int64_t wide = 2048;
  bench.model.config.intermediate_size = wide;
  for (auto& [key, weight] : bench.weights) {
    const bool down = key.pattern.ends_with("down_proj.weight");
    if (!down && !key.pattern.ends_with("gate_proj.weight") &&
        !key.pattern.ends_with("up_proj.weight")) {
      continue;
    }
    weight.rows = down ? 24 : wide;
    weight.cols = down ? wide : 24;
    const std::vector<float> values = Normals(static_cast<unsigned>(weight.cols), 24 * wide, 0.3f);
    weight.data.resize(values.size() * sizeof(float));
    std::memcpy(weight.data.data(), values.data(), weight.data.size());
  }
  AwqInput input = bench.Input();
  int64_t narrow = 0, whole = 0;
  const RoundMatrix round = input.round;
  input.round = [&](std::string_view pattern, int64_t expert, const float* w, int64_t rows,
                    int64_t cols, std::span<const float> importance, float* decoded) {
    if (pattern.ends_with("gate_proj.weight")) (rows == wide ? whole : narrow) += 1;
    if (pattern.ends_with("gate_proj.weight") && rows != wide) {
      CHECK(rows == AwqBlock::kSearchChannels);
    }
    if (pattern.ends_with("down_proj.weight") && cols != wide) {
      CHECK(cols == AwqBlock::kSearchChannels);
    }
    return round(pattern, expert, w, rows, cols, importance, decoded);
  };
  const auto folds = SearchAwq({}, input);
  REQUIRE(folds.ok());
  CHECK(whole == 2);  // without and with the fold
  CHECK(narrow > 4);
  CHECK(folds->mappings[2].kept);
}

ChannelStatistics Channels4() {
  ChannelStatistics s;
  s.mean = {1, 4, 16, 0};
  s.square = {1, 16, 256, 0};
  s.weight = {0.2, 0.2, 0.2, 0.2};
  s.range = {1, 1, 1, 1};
  return s;
}

TEST_CASE("awq: scales by their rules, around 1, on the grid of sixteenths") {
  const ChannelStatistics s = Channels4();
  // mean^0.5 = 1, 2, 4; over sqrt(1 * 4): 1/2, 1, 2; a channel without activations stays.
  CHECK(MakeScale(AwqRule::kMean, 0.5, s, {}) == std::vector<float>{0.5f, 1, 2, 1});
  CHECK(MakeScale(AwqRule::kRms, 1.0, s, {}) == std::vector<float>{0.25f, 1, 4, 1});
  CHECK(MakeScale(AwqRule::kRange, 0.5, s, {}) == std::vector<float>{0.5f, 1, 2, 1});
  CHECK(MakeScale(AwqRule::kDuo, 0.5, s, {}) == std::vector<float>{0.5f, 1, 2, 1});
  const std::vector<float> odd = MakeScale(AwqRule::kMean, 0.35, s, {});
  for (const float v : odd) CHECK(OctaveScale(NearestOctave(static_cast<double>(v))) == v);
  ChannelStatistics even = s;
  even.mean = {3, 3, 3, 3};
  CHECK(MakeScale(AwqRule::kMean, 0.5, even, {}).empty());
  even.mean = {0, 0, 0, 0};
  CHECK(MakeScale(AwqRule::kMean, 0.5, even, {}).empty());
  ChannelStatistics nan = s;
  nan.mean[1] = std::numeric_limits<double>::quiet_NaN();
  nan.range[2] = 0;
  CHECK(MakeScale(AwqRule::kMean, 0.5, nan, {})[1] == 1.0f);
  CHECK(MakeScale(AwqRule::kRange, 0.5, nan, {})[2] == 1.0f);
  ScaleLimits powers;
  powers.powers_of_two = true;
  for (const float v : MakeScale(AwqRule::kRms, 0.35, s, powers)) {
    CHECK(std::exp2(std::round(std::log2(v))) == v);
  }
}

TEST_CASE("awq: a norm in 16 bits is rounded, and the linears make up for it exactly") {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const int64_t n = 64;
    std::vector<float> gain = Normals(5, n, 0.5f);
    for (float& g : gain) g = RoundThrough(dtype, g);
    gain[7] = 0;
    gain[8] = dtype == DType::kF16 ? 0x1p-14f : 0x1p-126f;  // divided it would be subnormal
    ChannelStatistics s;
    for (const float v : Normals(6, n)) {
      s.mean.push_back(std::exp(static_cast<double>(v)));
      s.square.push_back(s.mean.back() * s.mean.back());
    }
    s.mean[8] = s.square[8] = 100;
    ScaleLimits limits;
    limits.gain = gain;
    limits.dtype = dtype;
    const std::vector<float> scale = MakeScale(AwqRule::kRms, 0.7, s, limits);
    REQUIRE(scale.size() == static_cast<size_t>(n));
    CHECK(scale[7] == 1.0f);
    CHECK(scale[8] == 1.0f);
    int moved = 0;
    for (size_t i = 0; i < scale.size(); ++i) {
      if (gain[i] == 0) continue;
      // What the folded source gives for the norm is on the dtype's grid, to f32 rounding.
      const float stored = gain[i] * (1.0f / scale[i]);
      CHECK(RoundThrough(dtype, stored) == doctest::Approx(stored).epsilon(3e-7));
      CHECK(RoundThrough(dtype, stored) * scale[i] == doctest::Approx(gain[i]).epsilon(3e-7));
      moved += scale[i] != 1.0f;
    }
    CHECK(moved > 50);
  }
}

}  // namespace
}  // namespace pennyweight
