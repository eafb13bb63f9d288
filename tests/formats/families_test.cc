// qwen2, mistral and mixtral in config.json and in GGUF: configurations both ways, and the experts
// of a layer as one tensor.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cstring>

#include "formats/gguf_metadata.h"
#include "formats/hf_config.h"
#include "formats/hf_output.h"
#include "formats/readers.h"
#include "formats/sinks.h"
#include "tests/formats/gguf_builder.h"
#include "tests/formats/gguf_test_model.h"
#include "tests/formats/sink_test_util.h"

namespace pennyweight {
namespace {

constexpr int64_t kExperts = 3;

HfConfig Parse(const std::string& architecture, const std::string& members) {
  const std::string text = fmt::format(
      R"({{"architectures": ["{}"], "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 32, "head_dim": 16, "vocab_size": 40,
        "rms_norm_eps": 1e-05{}}})",
      architecture, members);
  const auto json = Json::Parse(text);
  REQUIRE_MESSAGE(json.ok(), json.error().ToString());
  return ParseHfConfig(*json, "dir/config.json", "dir");
}

TEST_CASE("transformers' defaults differ by family") {
  const auto config = [](const char* architecture, const char* members) {
    const HfConfig parsed = Parse(architecture, members);
    REQUIRE_MESSAGE(!parsed.error.has_value(), parsed.error->ToString());
    return *parsed.config;
  };
  const ModelConfig llama = config("LlamaForCausalLM", "");
  CHECK(llama.kv_heads == 32);
  CHECK(llama.context_length == 2048);
  CHECK(llama.sliding_window == 0);
  const ModelConfig mistral = config("MistralForCausalLM", "");
  CHECK(mistral.family == "mistral");
  CHECK(mistral.kv_heads == 8);
  CHECK(mistral.context_length == 131072);
  CHECK(mistral.rope_theta == 1e4);
  CHECK(mistral.sliding_window == 4096);
  const ModelConfig mixtral =
      config("MixtralForCausalLM", R"(, "num_local_experts": 4, "num_experts_per_tok": 2)");
  CHECK(mixtral.family == "mixtral");
  CHECK(mixtral.kv_heads == 8);
  CHECK(mixtral.rope_theta == 1e6);
  CHECK(mixtral.sliding_window == 0);
  CHECK(mixtral.experts == 4);
  CHECK(mixtral.experts_per_token == 2);
  const ModelConfig qwen2 = config("Qwen2ForCausalLM", R"(, "num_key_value_heads": null)");
  CHECK(qwen2.family == "qwen2");
  CHECK(qwen2.kv_heads == 32);
  CHECK(qwen2.context_length == 32768);
  CHECK(config("MistralForCausalLM", R"(, "num_key_value_heads": null)").kv_heads == 32);
}

TEST_CASE("a sliding window bounds the context, where there is one") {
  const auto window = [](const char* architecture, const char* members) {
    const HfConfig parsed = Parse(architecture, members);
    REQUIRE_MESSAGE(!parsed.error.has_value(), parsed.error->ToString());
    return *parsed.config;
  };
  CHECK(window("MistralForCausalLM", R"(, "sliding_window": null)").sliding_window == 0);
  const ModelConfig mistral =
      window("MistralForCausalLM", R"(, "sliding_window": 512, "max_position_embeddings": 8192)");
  CHECK(mistral.sliding_window == 512);
  CHECK(mistral.LongestContext() == 512);
  CHECK(window("MistralForCausalLM", R"(, "sliding_window": 8192, "max_position_embeddings": 512)")
            .LongestContext() == 512);
  CHECK(window("MistralForCausalLM", R"(, "sliding_window": null, "max_position_embeddings": 8192)")
            .LongestContext() == 8192);
  // transformers' qwen2 has one only when it is told so.
  CHECK(window("Qwen2ForCausalLM", R"(, "sliding_window": 128)").sliding_window == 0);
  CHECK(window("Qwen2ForCausalLM", R"(, "sliding_window": 128, "use_sliding_window": true)")
            .sliding_window == 128);
  CHECK(window("LlamaForCausalLM", R"(, "sliding_window": 128, "use_sliding_window": false)")
            .sliding_window == 0);
}

TEST_CASE("experts that cannot be are refused by key") {
  const auto error = [](const char* members) {
    const HfConfig parsed = Parse("MixtralForCausalLM", members);
    REQUIRE(parsed.error.has_value());
    CHECK(parsed.error->file == "dir/config.json");
    return *parsed.error;
  };
  CHECK(error(R"(, "num_experts_per_tok": 2)").code == ErrorCode::kConfigMissing);
  CHECK(error(R"(, "num_local_experts": 4)").message.find("num_experts_per_tok") !=
        std::string::npos);
  for (const char* wrong : {R"(, "num_local_experts": 0, "num_experts_per_tok": 0)",
                            R"(, "num_local_experts": 4, "num_experts_per_tok": 5)",
                            R"(, "num_local_experts": 4, "num_experts_per_tok": 0)",
                            R"(, "num_local_experts": 1e9, "num_experts_per_tok": 2)",
                            R"(, "num_local_experts": 100000, "num_experts_per_tok": 2)"}) {
    CAPTURE(wrong);
    CHECK(error(wrong).code == ErrorCode::kConfigInvalid);
  }
}

// The tiny llama's configuration as another family's.
Model TinyOf(const std::string& family) {
  Model model = TinyLlama();
  model.family = FindFamily(family);
  model.config->family = family;
  model.config->architecture = std::string(model.family->hf_architecture);
  if (family == "mixtral") {
    model.config->experts = kExperts;
    model.config->experts_per_token = 2;
  }
  return model;
}

// Every tensor that the family needs, last one first; the experts' matrices in `encoding`.
std::vector<OutputTensor> TensorsOf(const Model& model, const Encoding& encoding) {
  const ModelConfig& config = *model.config;
  const Encoding f32 = Encoding::Plain(DType::kF32);
  std::vector<OutputTensor> out;
  for (const TensorRule& rule : model.family->tensors) {
    const bool layered = rule.hf.find("{}") != std::string_view::npos;
    for (int64_t layer = 0; layer < (layered ? config.layers : 1); ++layer) {
      Shape shape = {rule.hf.find("q_proj") != std::string_view::npos ? 256 : 128};  // of a bias
      if (rule.role == Role::kNorm) shape = {256};
      if (IsLayerLinear(rule.role)) {
        const bool kv = rule.role == Role::kAttnK || rule.role == Role::kAttnV;
        shape = {kv ? 128 : 256, 256};
      }
      if (rule.role == Role::kEmbedding || rule.role == Role::kHead) shape = {40, 256};
      if (rule.role == Role::kRouter) shape = {kExperts, 256};
      for (int64_t e = 0; e < (IsExpertRule(rule) ? kExperts : 1); ++e) {
        const bool blocks = IsLayerLinear(rule.role);
        out.push_back({NameFor(rule.hf, layer, e), blocks ? encoding : f32, shape});
      }
    }
  }
  std::reverse(out.begin(), out.end());
  return out;
}

Result<std::unique_ptr<TensorSink>> Begin(const Model& model, const std::string& path,
                                          const std::vector<OutputTensor>& tensors) {
  SinkOptions options;
  options.path = path;
  options.model = &model;
  PW_ASSIGN(auto sink, MakeGgufSink(options));
  PW_TRY(sink->Begin(tensors));
  return sink;
}

TEST_CASE("GGUF keeps the experts of a layer in one tensor, the list has a matrix each") {
  for (const Encoding& encoding :
       {Encoding::Plain(DType::kBF16), Encoding::Block(BlockType::kQ4_K)}) {
    CAPTURE(encoding.Name());
    const TempFolder temp;
    const Model model = TinyOf("mixtral");
    const auto tensors = TensorsOf(model, encoding);
    auto sink = Begin(model, temp / "m.gguf", tensors);
    REQUIRE_MESSAGE(sink.ok(), sink.error().ToString());
    std::vector<EncodedTensor> contents;
    for (size_t i = 0; i < tensors.size(); ++i) {
      const TensorInfo info = InfoOf(tensors[i]);
      contents.push_back(
          RandomTile(tensors[i].encoding, info.rows(), info.cols(), static_cast<uint32_t>(i)));
      WriteInTiles((*sink).get(), i, contents[i], 64);
    }
    const Status sealed = (*sink)->Seal();
    REQUIRE_MESSAGE(sealed.ok(), sealed.error().ToString());
    uint64_t bytes = 0;
    for (size_t i = 0; i < tensors.size(); ++i) {
      bytes += (*sink)->OutputBytes(i);
      if (tensors[i].name == "model.layers.1.block_sparse_moe.experts.2.w1.weight") {
        CHECK((*sink)->OutputName(i) == "blk.1.ffn_gate_exps.weight");
        CHECK((*sink)->OutputBytes(i) == contents[i].data.size());
      }
    }
    REQUIRE((*sink)->Commit().ok());
    const auto file = GgufFile::Open(temp / "m.gguf");
    REQUIRE(file.ok());
    uint64_t stored = 0;
    for (const GgufTensor& tensor : file->tensors()) stored += tensor.bytes;
    CHECK(stored == bytes);
    const GgufTensor* stack = file->FindTensor("blk.1.ffn_down_exps.weight");
    REQUIRE(stack != nullptr);
    CHECK(stack->shape == Shape{kExperts, 256, 256});
    CHECK(file->FindTensor("blk.0.ffn_gate_inp.weight") != nullptr);
    CHECK(file->AsInteger(*file->Find("llama.expert_count")) == kExperts);
    CHECK(file->AsInteger(*file->Find("llama.expert_used_count")) == 2);
    // Expert e begins e matrices behind the first.
    const std::string all = ReadText(temp / "m.gguf");
    const auto again = OpenGguf(temp / "m.gguf");
    REQUIRE(again.ok());
    REQUIRE_MESSAGE(!again->config_error, again->config_error->ToString());
    CHECK(again->family == FindFamily("mixtral"));
    CHECK(again->config->experts == kExperts);
    CHECK(again->config->experts_per_token == 2);
    REQUIRE(again->source->tensors().size() == tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i) {
      CAPTURE(tensors[i].name);
      const int64_t at = again->source->Find(tensors[i].name);
      REQUIRE(at >= 0);
      const TensorInfo& info = again->source->tensors()[static_cast<size_t>(at)];
      CHECK(info.shape == tensors[i].shape);
      CHECK(info.bytes == contents[i].data.size());
      EncodedTensor read;
      REQUIRE(again->source->ReadRows(static_cast<size_t>(at), 0, info.rows(), &read).ok());
      CHECK(read.data == contents[i].data);
      if (info.name.find("experts") == std::string::npos) continue;
      CHECK(std::memcmp(all.data() + info.offset, read.data.data(), read.data.size()) == 0);
    }
    // And once more through the sink, as an input: the same bytes of tensors.
    std::vector<OutputTensor> listed;
    for (const TensorInfo& info : again->source->tensors()) {
      listed.push_back({info.name, info.encoding, info.shape});
    }
    auto copy = Begin(*again, temp / "copy.gguf", listed);
    REQUIRE_MESSAGE(copy.ok(), copy.error().ToString());
    for (size_t i = 0; i < listed.size(); ++i) {
      EncodedTensor read;
      const TensorInfo& info = again->source->tensors()[i];
      REQUIRE(again->source->ReadRows(i, 0, info.rows(), &read).ok());
      WriteInTiles((*copy).get(), i, read, 32);
    }
    REQUIRE((*copy)->Seal().ok());
    REQUIRE((*copy)->Commit().ok());
    CHECK(ReadText(temp / "copy.gguf") == all);
  }
}

TEST_CASE("experts that do not make one tensor are refused") {
  const TempFolder temp;
  const Model model = TinyOf("mixtral");
  const auto tensors = TensorsOf(model, Encoding::Block(BlockType::kQ4_K));
  const std::string name = "model.layers.0.block_sparse_moe.experts.1.w2.weight";
  const auto at =
      static_cast<size_t>(std::ranges::find(tensors, name, &OutputTensor::name) - tensors.begin());
  REQUIRE(at < tensors.size());
  const auto refusal = [&](const std::vector<OutputTensor>& changed) {
    const auto sink = Begin(model, temp / "m.gguf", changed);
    REQUIRE_FALSE(sink.ok());
    CHECK(temp.Names().empty());
    return sink.error();
  };
  auto changed = tensors;
  changed[at].encoding = Encoding::Block(BlockType::kQ6_K);
  Error error = refusal(changed);
  CHECK(error.code == ErrorCode::kUnsupported);
  CHECK(error.tensor == name);
  CHECK(error.message.find("q6_k") != std::string::npos);
  CHECK(error.hint.find("--tensor-type") != std::string::npos);
  changed = tensors;
  changed[at].shape = {128, 256};
  CHECK(refusal(changed).code == ErrorCode::kUnsupported);
  changed = tensors;
  changed.erase(changed.begin() + static_cast<int64_t>(at));
  error = refusal(changed);
  CHECK(error.code == ErrorCode::kTensorMissing);
  CHECK(error.tensor == name);
  changed = tensors;
  changed.push_back(tensors[at]);
  changed.back().name = "model.layers.0.block_sparse_moe.experts.3.w2.weight";
  error = refusal(changed);
  CHECK(error.code == ErrorCode::kConfigInvalid);
  CHECK(error.tensor == changed.back().name);
  changed = tensors;
  for (OutputTensor& tensor : changed) {
    if (tensor.name.find("w2") != std::string::npos) tensor.shape = {256};
  }
  CHECK(refusal(changed).code == ErrorCode::kInvalidTensor);
}

// A llama with experts whose one tensor is listed as `dims` (innermost first).
Model OpenStack(const TempFolder& temp, uint32_t experts, std::vector<int64_t> dims,
                uint64_t bytes) {
  GgufBytes b;
  b.Start(1, 9).Text("general.architecture", "llama");
  b.U32("llama.block_count", 1).U32("llama.context_length", 64).U32("llama.embedding_length", 8);
  b.U32("llama.feed_forward_length", 16).U32("llama.attention.head_count", 2);
  b.F32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  b.U32("llama.expert_count", experts).U32("llama.expert_used_count", 1);
  b.Tensor("blk.0.ffn_up_exps.weight", dims, 0, 0).Align().Data(bytes);
  WriteText(temp / "m.gguf", b.text);
  auto model = OpenGguf(temp / "m.gguf");
  REQUIRE_MESSAGE(model.ok(), model.error().ToString());
  return std::move(model).value();
}

TEST_CASE("a stack of other size than the metadata tell: as stored, and why") {
  const TempFolder temp;
  CHECK(OpenStack(temp, 3, {8, 16, 3}, 8 * 16 * 3 * 4).source->tensors().size() == 3);
  struct Case {
    uint32_t experts;
    std::vector<int64_t> dims;
  };
  for (const Case& wrong : {Case{4, {8, 16, 3}}, Case{2, {8, 16, 3}}, Case{3, {8, 16}},
                            Case{3, {8, 16, 3, 1}}, Case{3, {3, 16, 8}}}) {
    uint64_t bytes = 4;
    for (const int64_t d : wrong.dims) bytes *= static_cast<uint64_t>(d);
    const Model model = OpenStack(temp, wrong.experts, wrong.dims, bytes);
    REQUIRE(model.config_error);
    CHECK(model.config_error->code == ErrorCode::kConfigInvalid);
    CHECK(model.config_error->tensor == "blk.0.ffn_up_exps.weight");
    CHECK(model.config_error->message.find("experts") != std::string::npos);
    CHECK(model.family == nullptr);
    CHECK(model.source->Find("blk.0.ffn_up_exps.weight") == 0);
  }
}

TEST_CASE("a configuration of each family survives GGUF and config.json") {
  for (const char* family : {"llama", "mistral", "mixtral", "qwen2"}) {
    CAPTURE(family);
    const TempFolder temp;
    Model model = TinyOf(family);
    if (std::string(family) == "mistral") model.config->sliding_window = 64;
    const auto tensors = TensorsOf(model, Encoding::Plain(DType::kF16));
    auto sink = Begin(model, temp / "m.gguf", tensors);
    REQUIRE_MESSAGE(sink.ok(), sink.error().ToString());
    for (size_t i = 0; i < tensors.size(); ++i) {
      const TensorInfo info = InfoOf(tensors[i]);
      WriteInTiles((*sink).get(), i, RandomTile(tensors[i].encoding, info.rows(), info.cols(), 5),
                   64);
    }
    REQUIRE((*sink)->Seal().ok());
    REQUIRE((*sink)->Commit().ok());
    const auto again = OpenGguf(temp / "m.gguf");
    REQUIRE(again.ok());
    REQUIRE_MESSAGE(!again->config_error, again->config_error->ToString());
    CHECK(again->family == model.family);
    const auto text = OutputConfig(*again, {});
    REQUIRE(text.ok());
    const auto json = Json::Parse(*text);
    REQUIRE(json.ok());
    const HfConfig parsed = ParseHfConfig(*json, "config.json", "tiny");
    REQUIRE_MESSAGE(!parsed.error, parsed.error->ToString());
    for (const ModelConfig* config : {&*again->config, &*parsed.config}) {
      CHECK(config->family == family);
      CHECK(config->experts == model.config->experts);
      CHECK(config->experts_per_token == model.config->experts_per_token);
      CHECK(config->sliding_window == model.config->sliding_window);
      CHECK(config->kv_heads == 2);
      CHECK(config->head_dim == 64);
      CHECK(config->context_length == 128);
    }
  }
}

}  // namespace
}  // namespace pennyweight
