#include "quant/mix.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "quant/grid.h"
#include "quant/mix_gguf.h"

namespace pennyweight {
namespace {

struct Dense {
  int64_t layers = 4;
  int64_t hidden = 256;
  int64_t ffn = 768;
  bool tied = false;
};

TensorInfo Tensor(std::string name, Shape shape,
                  Encoding encoding = Encoding::Plain(DType::kBF16)) {
  TensorInfo info;
  info.name = name;
  info.stored_name = std::move(name);
  info.shape = std::move(shape);
  info.encoding = encoding;
  return info;
}

// Layers in falling order and the head first: the choices must not depend on the order given.
std::vector<TensorInfo> DenseLlama(const Dense& d) {
  std::vector<TensorInfo> tensors;
  if (!d.tied) tensors.push_back(Tensor("lm_head.weight", {2048, d.hidden}));
  for (int64_t i = d.layers - 1; i >= 0; --i) {
    const std::string p = "model.layers." + std::to_string(i) + ".";
    tensors.push_back(Tensor(p + "self_attn.q_proj.weight", {d.hidden, d.hidden}));
    tensors.push_back(Tensor(p + "self_attn.k_proj.weight", {d.hidden / 2, d.hidden}));
    tensors.push_back(Tensor(p + "self_attn.v_proj.weight", {d.hidden / 2, d.hidden}));
    tensors.push_back(Tensor(p + "self_attn.o_proj.weight", {d.hidden, d.hidden}));
    tensors.push_back(Tensor(p + "mlp.gate_proj.weight", {d.ffn, d.hidden}));
    tensors.push_back(Tensor(p + "mlp.up_proj.weight", {d.ffn, d.hidden}));
    tensors.push_back(Tensor(p + "mlp.down_proj.weight", {d.hidden, d.ffn}));
    tensors.push_back(Tensor(p + "input_layernorm.weight", {d.hidden}));
    tensors.push_back(Tensor(p + "post_attention_layernorm.weight", {d.hidden}));
  }
  tensors.push_back(Tensor("model.norm.weight", {d.hidden}));
  tensors.push_back(Tensor("model.embed_tokens.weight", {2048, d.hidden}));
  return tensors;
}

ModelConfig Config(const Dense& d) {
  ModelConfig config;
  config.family = "llama";
  config.layers = d.layers;
  config.heads = 8;
  config.kv_heads = 4;
  config.tie_embeddings = d.tied;
  return config;
}

MixOptions Options(std::string type) {
  MixOptions options;
  options.type = std::move(type);
  options.integer.group_size = 128;
  options.plain = Encoding::Plain(DType::kBF16);
  options.norm = Encoding::Plain(DType::kF32);
  return options;
}

std::map<std::string, Choice> Choose(const MixOptions& options, const Dense& d) {
  const auto tensors = DenseLlama(d);
  const Family* family = FindFamily("llama");
  REQUIRE(family != nullptr);
  const auto choices = ChooseTypes(options, family, Config(d), tensors);
  REQUIRE_MESSAGE(choices.ok(), choices.error().message);
  REQUIRE(choices->size() == tensors.size());
  std::map<std::string, Choice> by_name;
  for (size_t i = 0; i < tensors.size(); ++i) by_name[tensors[i].name] = (*choices)[i];
  return by_name;
}

Error ChooseError(const MixOptions& options) {
  const Dense d;
  const auto choices = ChooseTypes(options, FindFamily("llama"), Config(d), DenseLlama(d));
  REQUIRE_FALSE(choices.ok());
  return choices.error();
}

// What a mix is expected to give: a type for all layers, or one letter per layer.
using PerLayer = std::map<char, std::string>;
void CheckLayers(const std::map<std::string, Choice>& choices, const std::string& part,
                 const std::string& letters, const PerLayer& legend) {
  for (size_t i = 0; i < letters.size(); ++i) {
    const std::string name = "model.layers." + std::to_string(i) + "." + part + ".weight";
    CAPTURE(name);
    const Choice& choice = choices.at(name);
    CHECK(choice.encoding.Name() == legend.at(letters[i]));
    CHECK(choice.quantize);
    CHECK_FALSE(choice.fallback.has_value());
  }
}

const PerLayer kLegend = {
    {'2', "q2_k"}, {'3', "q3_k"}, {'4', "q4_k"}, {'5', "q5_k"}, {'6', "q6_k"}};

struct ExpectedMix {
  const char* mix;
  const char* v;
  const char* down;
  const char* o;
  char rest;
};

void CheckMix(const ExpectedMix& e) {
  CAPTURE(e.mix);
  Dense d;
  d.layers = static_cast<int64_t>(std::string(e.v).size());
  const auto choices = Choose(Options(e.mix), d);
  CheckLayers(choices, "self_attn.v_proj", e.v, kLegend);
  CheckLayers(choices, "mlp.down_proj", e.down, kLegend);
  CheckLayers(choices, "self_attn.o_proj", e.o, kLegend);
  const std::string rest(static_cast<size_t>(d.layers), e.rest);
  for (const char* part :
       {"self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.up_proj"}) {
    CheckLayers(choices, part, rest, kLegend);
  }
  CHECK(choices.at("lm_head.weight").encoding.Name() == "q6_k");
  CHECK(choices.at("model.embed_tokens.weight").encoding.Name() == kLegend.at(e.rest));
}

// Written by hand from llama.cpp's rules: more(i, n) is i < n/8, i >= 7n/8, or (i - n/8) % 3 == 2.
TEST_CASE("gguf mixes of a dense llama with 4 layers") {
  CheckMix({"q4_k_m", "4466", "4466", "4444", '4'});
  CheckMix({"q4_k_s", "5555", "4444", "4444", '4'});
  CheckMix({"q5_k_m", "5566", "5566", "5555", '5'});
  CheckMix({"q5_k_s", "5555", "5555", "5555", '5'});
  CheckMix({"q3_k_s", "3333", "3333", "3333", '3'});
  CheckMix({"q3_k_m", "5544", "4444", "4444", '3'});
  CheckMix({"q3_k_l", "5555", "5555", "5555", '3'});
  CheckMix({"q2_k", "3333", "3333", "3333", '2'});
  CheckMix({"q6_k", "6666", "6666", "6666", '6'});
}

TEST_CASE("gguf mixes of a dense llama with 32 layers") {
  const char* more_46 = "66664464464464464464464464466666";
  const std::string four(32, '4'), three(32, '3');
  CheckMix({"q4_k_m", more_46, more_46, four.c_str(), '4'});
  const char* first_4 = "55554444444444444444444444444444";
  CheckMix({"q4_k_s", first_4, first_4, four.c_str(), '4'});
  const char* first_2 = "55444444444444444444444444444444";
  CheckMix({"q3_k_m", first_2, first_2, four.c_str(), '3'});
  CheckMix({"q3_k_s", three.c_str(), three.c_str(), three.c_str(), '3'});
}

TEST_CASE("legacy mixes: one type, q6_k for the head, q8_0 stays q8_0") {
  for (const std::string type : {"q4_0", "q4_1", "q5_0", "q5_1", "q8_0"}) {
    CAPTURE(type);
    const auto choices = Choose(Options(type), Dense{});
    CHECK(choices.at("lm_head.weight").encoding.Name() == (type == "q8_0" ? "q8_0" : "q6_k"));
    CHECK(choices.at("model.embed_tokens.weight").encoding.Name() == type);
    CHECK(choices.at("model.layers.3.mlp.down_proj.weight").encoding.Name() == type);
    CHECK(choices.at("model.norm.weight").encoding.Name() == "f32");
    CHECK_FALSE(choices.at("model.norm.weight").quantize);
    CHECK(choices.at("model.norm.weight").fallback == "norms are not quantized");
    CHECK_FALSE(choices.at("model.norm.weight").degraded);
  }
}

TEST_CASE("a tied embedding counts as the head") {
  Dense d;
  d.tied = true;
  CHECK(Choose(Options("q4_k_m"), d).at("model.embed_tokens.weight").encoding.Name() == "q6_k");
  CHECK(Choose(Options("q8_0"), d).at("model.embed_tokens.weight").encoding.Name() == "q8_0");
  auto options = Options("q4_k_m");
  options.output_type = Encoding::Block(BlockType::kQ8_0);
  CHECK(Choose(options, d).at("model.embed_tokens.weight").encoding.Name() == "q8_0");
  options.embedding_type = Encoding::Block(BlockType::kQ5_0);
  CHECK(Choose(options, d).at("model.embed_tokens.weight").encoding.Name() == "q5_0");
}

TEST_CASE("70B models get q5_k where attn_v would have q4_k") {
  Dense d;
  d.layers = 80;
  const auto choices = Choose(Options("q4_k_m"), d);
  CHECK(choices.at("model.layers.10.self_attn.v_proj.weight").encoding.Name() == "q5_k");
  CHECK(choices.at("model.layers.0.self_attn.v_proj.weight").encoding.Name() == "q6_k");
  CHECK(choices.at("model.layers.10.mlp.down_proj.weight").encoding.Name() == "q4_k");
}

TEST_CASE("rows that do not divide into blocks fall back and say so") {
  Dense d;  // the shape of stories260K: 64 and 172 columns
  d.hidden = 64;
  d.ffn = 172;
  d.tied = true;
  auto choices = Choose(Options("q4_k_m"), d);
  const Choice& q = choices.at("model.layers.0.self_attn.q_proj.weight");
  CHECK(q.encoding.Name() == "q5_0");
  CHECK(q.fallback == "64 columns do not divide into blocks of 256: q5_0");
  CHECK(q.degraded);
  CHECK(choices.at("model.layers.3.self_attn.v_proj.weight").encoding.Name() == "q8_0");
  const Choice& down = choices.at("model.layers.0.mlp.down_proj.weight");
  CHECK(down.encoding.Name() == "f16");
  CHECK_FALSE(down.quantize);
  CHECK(down.fallback == "172 columns do not divide into blocks of 256: f16");
  CHECK(choices.at("model.embed_tokens.weight").encoding.Name() == "q8_0");

  choices = Choose(Options("q4_0"), d);
  CHECK(choices.at("model.layers.0.mlp.down_proj.weight").fallback ==
        "172 columns do not divide into blocks of 32: f16");
  CHECK(choices.at("model.layers.0.mlp.up_proj.weight").encoding.Name() == "q4_0");
  choices = Choose(Options("q3_k_s"), d);
  CHECK(choices.at("model.layers.0.mlp.up_proj.weight").encoding.Name() == "q4_0");
  choices = Choose(Options("q5_k_s"), d);
  CHECK(choices.at("model.layers.0.mlp.up_proj.weight").encoding.Name() == "q5_1");
}

TEST_CASE("integer mixes quantize the layers and leave the rest plain, with reasons") {
  for (const std::string type : {"int4", "int8"}) {
    const auto choices = Choose(Options(type), Dense{});
    CHECK(choices.at("model.layers.2.mlp.up_proj.weight").encoding.Name() == type + "_g128");
    CHECK_FALSE(choices.at("model.layers.2.mlp.up_proj.weight").fallback.has_value());
    for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"}) {
      CHECK(choices.at(name).encoding.Name() == "bf16");
      CHECK_FALSE(choices.at(name).quantize);
      CHECK_FALSE(choices.at(name).degraded);
    }
    CHECK(choices.at("lm_head.weight").fallback == type + " keeps the head plain");
  }
  // Naming the groups too changes nothing about which tensors.
  const auto named = Choose(Options("int4_g32_asym"), Dense{});
  CHECK(named.at("model.layers.2.mlp.up_proj.weight").encoding.Name() == "int4_g32_asym");
  CHECK_FALSE(named.at("model.embed_tokens.weight").quantize);
  CHECK_FALSE(named.at("lm_head.weight").quantize);

  auto options = Options("int4");
  options.output_type = FindType("int8", options.integer);
  options.embedding_type = FindType("int8", options.integer);
  auto choices = Choose(options, Dense{});
  CHECK(choices.at("lm_head.weight").encoding.Name() == "int8_g128");
  CHECK(choices.at("model.embed_tokens.weight").encoding.Name() == "int8_g128");

  Dense ragged;
  ragged.hidden = 64;
  ragged.ffn = 172;
  choices = Choose(Options("int4"), ragged);
  const Choice& down = choices.at("model.layers.0.mlp.down_proj.weight");
  CHECK(down.encoding.kind == Encoding::Kind::kInteger);
  CHECK(down.encoding.integer.group_size == 0);
  CHECK(down.quantize);
  CHECK(down.degraded);
  CHECK(down.fallback == "172 columns do not divide into groups of 128: one scale per row");
}

TEST_CASE("pure types and bare block types take every matrix") {
  for (const std::string type : {"q4_k", "q8_0", "q6_k", "int8"}) {
    auto options = Options(type);
    options.pure = true;
    const auto choices = Choose(options, Dense{});
    for (const auto& [name, choice] : choices) {
      CAPTURE(name);
      if (name.find("norm") == std::string::npos) {
        CHECK(choice.quantize);
        CHECK(choice.encoding.Name().starts_with(type));
      } else {
        CHECK(choice.encoding.Name() == "f32");
      }
    }
  }
  auto options = Options("q4_k_m");  // a mix lends its base
  options.pure = true;
  CHECK(Choose(options, Dense{}).at("lm_head.weight").encoding.Name() == "q4_k");
  CHECK(Choose(Options("q4_k"), Dense{}).at("lm_head.weight").encoding.Name() == "q4_k");
}

TEST_CASE("a plain type is a cast: nothing is left alone, nothing has a reason") {
  for (const auto& [name, choice] : Choose(Options("f16"), Dense{})) {
    CAPTURE(name);
    CHECK_FALSE(choice.quantize);
    CHECK_FALSE(choice.fallback.has_value());
    CHECK(choice.encoding.Name() == (name.find("norm") == std::string::npos ? "f16" : "f32"));
  }
}

TEST_CASE("precedence: embedding and output type, first pattern, keep, mix; counters stand still") {
  auto options = Options("q4_k_m");
  options.embedding_type = Encoding::Block(BlockType::kQ8_0);
  options.tensor_types = {
      {"embed_tokens", Encoding::Block(BlockType::kQ4_0)},
      {"layers\\.2\\.self_attn\\.v_proj", Encoding::Block(BlockType::kQ8_0)},
      {"layers\\.2\\.", Encoding::Block(BlockType::kQ5_1)},
      {"blk\\.3\\.ffn_up", Encoding::Plain(DType::kF16)},
  };
  options.keep = {"layers\\.2\\.", "layers\\.0\\.mlp\\.gate"};
  const auto choices = Choose(options, Dense{});
  const auto type = [&](const std::string& name) { return choices.at(name).encoding.Name(); };
  CHECK(type("model.embed_tokens.weight") == "q8_0");
  CHECK(type("model.layers.2.self_attn.v_proj.weight") == "q8_0");
  CHECK(type("model.layers.2.self_attn.q_proj.weight") == "q5_1");
  CHECK(type("model.layers.2.input_layernorm.weight") == "f32");
  CHECK(type("model.layers.3.mlp.up_proj.weight") == "f16");
  CHECK_FALSE(choices.at("model.layers.3.mlp.up_proj.weight").quantize);
  CHECK(type("model.layers.0.mlp.gate_proj.weight") == "bf16");
  CHECK(choices.at("model.layers.0.mlp.gate_proj.weight").fallback == "kept as asked");
  // Layer 3 is now the third attn_v of the mix (index 2): more bits. The manual one did not count.
  CHECK(type("model.layers.3.self_attn.v_proj.weight") == "q6_k");
  CHECK(type("model.layers.1.self_attn.v_proj.weight") == "q4_k");
}

TEST_CASE("explicit types fall back by shape too") {
  Dense d;
  d.hidden = 96;
  auto options = Options("q8_0");
  options.embedding_type = Encoding::Block(BlockType::kQ6_K);
  const auto choices = Choose(options, d);
  CHECK(choices.at("model.embed_tokens.weight").encoding.Name() == "q8_0");
  CHECK(choices.at("model.embed_tokens.weight").fallback ==
        "96 columns do not divide into blocks of 256: q8_0");
}

TEST_CASE("usage errors name the word and the nearest right one") {
  Error error = ChooseError(Options("q4_k_n"));
  CHECK(error.code == ErrorCode::kUsage);
  CHECK(error.message.find("q4_k_n") != std::string::npos);
  CHECK(error.hint.find("q4_k_m") != std::string::npos);
  error = ChooseError(Options("somethingelse"));
  CHECK(error.hint.find("one of: bf16") != std::string::npos);

  auto options = Options("q8_0");
  options.tensor_types = {{"dwn_proj", Encoding::Block(BlockType::kQ4_0)}};
  error = ChooseError(options);
  CHECK(error.code == ErrorCode::kUsage);
  CHECK(error.message.find("dwn_proj") != std::string::npos);
  CHECK(error.hint.find("mlp.down_proj.weight") != std::string::npos);

  options = Options("q8_0");
  options.keep = {"layers\\.9\\."};
  CHECK(ChooseError(options).code == ErrorCode::kUsage);
  options.keep = {"(unclosed"};
  CHECK(ChooseError(options).message.find("(unclosed") != std::string::npos);
  options.keep = {""};
  CHECK(ChooseError(options).code == ErrorCode::kUsage);
  options = Options("int4");
  options.integer.group_size = -1;
  CHECK(ChooseError(options).code == ErrorCode::kUsage);
}

TEST_CASE("a model of no known family: matrices by name and shape, what cannot be read is copied") {
  const std::vector<TensorInfo> tensors = {
      Tensor("encoder.0.attn.w.weight", {256, 256}),
      Tensor("encoder.0.attn.w.bias", {256}),
      Tensor("wte.weight", {300, 256}),
      Tensor("positions", {1, 256}, Encoding::Plain(DType::kI64)),
      Tensor("conv.weight", {1, 1, 256}),
      Tensor("table", {4, 256}),
  };
  for (const std::string type : {"q4_k_m", "int4"}) {
    CAPTURE(type);
    const auto choices = ChooseTypes(Options(type), nullptr, ModelConfig{}, tensors);
    REQUIRE(choices.ok());
    CHECK((*choices)[0].quantize);
    CHECK((*choices)[1].fallback == "biases are not quantized");
    CHECK((*choices)[2].quantize == (type == "q4_k_m"));
    CHECK((*choices)[3].encoding.Name() == "i64");
    CHECK_FALSE((*choices)[3].quantize);
    CHECK_FALSE((*choices)[4].quantize);
    CHECK_FALSE((*choices)[5].quantize);
    CHECK((*choices)[5].fallback == "not a weight matrix");
  }
}

TEST_CASE("a mix that is offered can be written, for dense models and with experts") {
  std::string_view previous;
  std::string waiting;
  for (const Mix& mix : Mixes()) {
    CAPTURE(mix.name);
    CHECK(previous < mix.name);
    previous = mix.name;
    CHECK(FindMix(mix.name) == &mix);
    REQUIRE(NamedType(mix.base, IntegerSpec{}).has_value());
    if (!IsOffered(mix)) {
      waiting += " " + std::string(mix.name);
      if (mix.name == "mxfp4_moe") continue;  // without experts it chooses q8_0 only
      const auto refused = ChooseTypes(Options(std::string(mix.name)), FindFamily("llama"),
                                       Config(Dense{}), DenseLlama(Dense{}));
      REQUIRE_FALSE(refused.ok());
      CHECK(refused.error().code == ErrorCode::kUnsupported);
      continue;
    }
    for (const int64_t layers : {4, 80}) {
      Dense d;
      d.layers = layers;
      for (const bool importance : {false, true}) {
        auto options = Options(std::string(mix.name));
        options.importance = importance;
        for (const auto& [name, choice] : Choose(options, d)) {
          CAPTURE(name);
          CHECK((!choice.quantize || IsWritable(choice.encoding)));
        }
      }
    }
  }
  CHECK(FindMix("q4_k") == nullptr);
  MESSAGE("mixes that wait for an encoder:" << (waiting.empty() ? " none" : waiting));
}

TEST_CASE("mixes that cannot do without importance are marked") {
  const auto needs = [](std::string_view name) { return NeedsImportance(*FindMix(name)); };
  for (const char* name : {"iq1_s", "iq2_xxs", "iq2_m", "iq3_xxs", "iq3_xs", "q2_k_s"}) {
    CHECK_MESSAGE(needs(name), name);
  }
  for (const char* name : {"q2_k", "iq3_s", "iq3_m", "iq4_xs", "q4_k_m", "tq1_0", "int2", "nf4"}) {
    CHECK_FALSE_MESSAGE(needs(name), name);
  }
}

// The expected types are llama-quantize's for the merged tensors (tests/quant/mix_golden_test.cc).
TEST_CASE("a model of no known family: parts by the words of the hub") {
  std::vector<TensorInfo> tensors = {
      Tensor("model.embed_tokens.weight", {64, 256}),
      Tensor("lm_head.weight", {64, 256}),
      Tensor("vision_tower.layers.0.self_attn.v_proj.weight", {64, 256}),
  };
  for (int layer = 0; layer < 4; ++layer) {
    const std::string p = "model.layers." + std::to_string(layer) + ".";
    for (const char* part : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
      tensors.push_back(Tensor(p + "self_attn." + part + ".weight", {64, 256}));
    }
    tensors.push_back(Tensor(p + "block_sparse_moe.gate.weight", {8, 256}));
    for (int expert = 0; expert < 8; ++expert) {
      const std::string e = p + "block_sparse_moe.experts." + std::to_string(expert) + ".";
      for (const char* part : {"w1", "w2", "w3"}) {
        tensors.push_back(Tensor(e + part + ".weight", {64, 256}));
      }
    }
  }
  ModelConfig config;
  config.architecture = "MixtralForCausalLM";
  config.layers = 4;
  config.heads = 8;
  config.kv_heads = 4;
  config.experts = 8;
  const auto choose = [&](const std::string& type) {
    const auto choices = DecideTypes(Options(type), nullptr, config, tensors);
    REQUIRE(choices.ok());
    std::map<std::string, std::string> types;
    for (size_t i = 0; i < tensors.size(); ++i) {
      types[tensors[i].name] = (*choices)[i].encoding.Name();
    }
    return types;
  };
  auto types = choose("q4_k_m");
  CHECK(types.at("lm_head.weight") == "q6_k");
  CHECK(types.at("model.embed_tokens.weight") == "q4_k");
  CHECK(types.at("model.layers.1.self_attn.k_proj.weight") == "q8_0");
  CHECK(types.at("model.layers.1.self_attn.v_proj.weight") == "q8_0");
  CHECK(types.at("model.layers.1.self_attn.o_proj.weight") == "q5_k");
  CHECK(types.at("model.layers.1.block_sparse_moe.gate.weight") == "f32");
  for (int expert = 0; expert < 8; ++expert) {
    const std::string w2 = ".block_sparse_moe.experts." + std::to_string(expert) + ".w2.weight";
    CHECK(types.at("model.layers.1" + w2) == "q4_k");
    CHECK(types.at("model.layers.2" + w2) == "q6_k");
  }
  CHECK(types.at("vision_tower.layers.0.self_attn.v_proj.weight") == "q4_k");
  types = choose("mxfp4_moe");
  CHECK(types.at("model.layers.3.block_sparse_moe.experts.7.w1.weight") == "mxfp4");
  CHECK(types.at("model.layers.3.self_attn.o_proj.weight") == "q8_0");
  CHECK(types.at("model.embed_tokens.weight") == "q8_0");
  types = choose("iq2_m");  // counted, not by layer: experts of a layer count once
  CHECK(types.at("model.layers.3.self_attn.k_proj.weight") == "q4_k");
  CHECK(types.at("model.layers.0.block_sparse_moe.experts.0.w2.weight") == "iq2_s");
}

TEST_CASE("importance changes what guards against unweighted rounding") {
  Dense d;
  d.layers = 16;
  auto options = Options("q4_0");
  CHECK(Choose(options, d).at("model.layers.0.mlp.down_proj.weight").encoding.Name() == "q4_0");
  options.importance = true;
  const auto choices = Choose(options, d);
  CHECK(choices.at("model.layers.1.mlp.down_proj.weight").encoding.Name() == "q4_1");
  CHECK(choices.at("model.layers.2.mlp.down_proj.weight").encoding.Name() == "q4_0");
}

TEST_CASE("a tied embedding: a pattern goes before the output type, which holds under pure too") {
  Dense d;
  d.tied = true;
  auto options = Options("q4_k_m");
  options.output_type = Encoding::Block(BlockType::kQ8_0);
  options.pure = true;
  CHECK(Choose(options, d).at("model.embed_tokens.weight").encoding.Name() == "q8_0");
  options.tensor_types = {{"embed", Encoding::Block(BlockType::kQ5_0)}};
  CHECK(Choose(options, d).at("model.embed_tokens.weight").encoding.Name() == "q5_0");
}

TEST_CASE("gguf order: by layer, then bytewise by name") {
  const std::vector<std::string> names = {"blk.10.ffn_up.weight", "blk.2.ffn_up.weight",
                                          "output.weight", "blk.2.attn_v.weight",
                                          "token_embd.weight"};
  const std::vector<int64_t> layers = {10, 2, -1, 2, -1};
  CHECK(GgufOrder(names, layers) == std::vector<size_t>{2, 4, 3, 1, 0});
}

}  // namespace
}  // namespace pennyweight
