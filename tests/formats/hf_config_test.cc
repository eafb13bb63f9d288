#include "formats/hf_config.h"

#include <doctest/doctest.h>

#include "formats/json_fields.h"
#include "tests/formats/model_files.h"

namespace pennyweight {
namespace {

constexpr const char* kBase = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 96,
  "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 6,
  "num_key_value_heads": 2, "vocab_size": 320, "rms_norm_eps": 1e-05,
  "max_position_embeddings": 4096, "rope_theta": 500000.0, "torch_dtype": "bfloat16",
  "bos_token_id": 1, "eos_token_id": 2)";

HfConfig Parse(const std::string& text) {
  const auto json = Json::Parse(text);
  REQUIRE_MESSAGE(json.ok(), json.error().ToString());
  return ParseHfConfig(*json, "dir/config.json", "dir");
}

// kBase with more members.
HfConfig ParseWith(const std::string& members) {
  return Parse(fmt::format("{}{}}}", kBase, members));
}

// kBase with `from` replaced by `to`.
HfConfig ParseChanged(const std::string& from, const std::string& to) {
  std::string text = std::string(kBase) + "}";
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return Parse(text.replace(at, from.size(), to));
}

TEST_CASE("a llama config fills every field, with transformers' defaults") {
  const HfConfig parsed = ParseWith("");
  REQUIRE_FALSE(parsed.error.has_value());
  REQUIRE(parsed.family != nullptr);
  const ModelConfig& config = *parsed.config;
  CHECK(config.family == "llama");
  CHECK(config.architecture == "LlamaForCausalLM");
  CHECK(config.name == "dir");
  CHECK(config.hidden_size == 96);
  CHECK(config.intermediate_size == 160);
  CHECK(config.layers == 3);
  CHECK(config.heads == 6);
  CHECK(config.kv_heads == 2);
  CHECK(config.head_dim == 16);
  CHECK(config.vocab_size == 320);
  CHECK(config.context_length == 4096);
  CHECK(config.rms_norm_eps == 1e-5);
  CHECK(config.rope_theta == 500000.0);
  CHECK(config.rope_scaling.kind == RopeScaling::Kind::kNone);
  CHECK_FALSE(config.tie_embeddings);
  CHECK(config.dtype == DType::kBF16);
  CHECK(parsed.has_dtype);
  CHECK(config.bos_id == 1);
  CHECK(config.eos_id == 2);

  CHECK(ParseChanged("\"num_key_value_heads\": 2, ", "").config->kv_heads == 6);
  CHECK(ParseChanged("\"rope_theta\": 500000.0, ", "").config->rope_theta == 10000.0);
  CHECK(ParseChanged("\"max_position_embeddings\": 4096, ", "").config->context_length == 2048);
  CHECK_FALSE(ParseChanged("\"torch_dtype\": \"bfloat16\",", "").has_dtype);
  CHECK(ParseWith(R"(,"head_dim": 32)").config->head_dim == 32);
  CHECK(ParseWith(R"(,"head_dim": null)").config->head_dim == 16);
  CHECK(ParseWith(R"(,"tie_word_embeddings": true)").config->tie_embeddings);
  CHECK(ParseChanged("torch_dtype", "dtype").config->dtype == DType::kBF16);
  CHECK(ParseChanged("bfloat16", "torch.float16").config->dtype == DType::kF16);
  CHECK(ParseChanged("\"eos_token_id\": 2", "\"eos_token_id\": [7, 8]").config->eos_id == 7);
  CHECK_FALSE(ParseChanged("\"bos_token_id\": 1", "\"bos_token_id\": null").config->bos_id);
  CHECK_FALSE(ParseChanged("\"bos_token_id\": 1", "\"bos_token_id\": -1").config->bos_id);
}

TEST_CASE("rope scaling in its three spellings") {
  const std::string llama3 =
      R"("factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 512)";
  for (const char* key : {"type", "rope_type"}) {
    const HfConfig parsed =
        ParseWith(fmt::format(R"(,"rope_scaling": {{"{}": "llama3", {}}})", key, llama3));
    REQUIRE_FALSE(parsed.error.has_value());
    const RopeScaling& scaling = parsed.config->rope_scaling;
    CHECK(scaling.kind == RopeScaling::Kind::kLlama3);
    CHECK(scaling.factor == 8.0);
    CHECK(scaling.low_freq_factor == 1.0);
    CHECK(scaling.high_freq_factor == 4.0);
    CHECK(scaling.original_context_length == 512);
  }
  const HfConfig newer = ParseWith(fmt::format(
      R"(,"rope_parameters": {{"rope_type": "llama3", "rope_theta": 70000.0, {}}})", llama3));
  REQUIRE_FALSE(newer.error.has_value());
  CHECK(newer.config->rope_theta == 70000.0);
  CHECK(newer.config->rope_scaling.kind == RopeScaling::Kind::kLlama3);

  const HfConfig linear = ParseWith(R"(,"rope_scaling": {"type": "linear", "factor": 2})");
  CHECK(linear.config->rope_scaling.kind == RopeScaling::Kind::kLinear);
  CHECK(linear.config->rope_scaling.factor == 2.0);
  for (const char* none : {"null", "{}", R"({"rope_type": "default"})"}) {
    const HfConfig parsed = ParseWith(fmt::format(R"(,"rope_scaling": {})", none));
    REQUIRE_FALSE(parsed.error.has_value());
    CHECK(parsed.config->rope_scaling.kind == RopeScaling::Kind::kNone);
  }
}

TEST_CASE("a missing key is named with its file") {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "vocab_size", "rms_norm_eps"}) {
    CAPTURE(key);
    const HfConfig parsed = ParseChanged(fmt::format("\"{}\"", key), "\"other\"");
    REQUIRE(parsed.error.has_value());
    CHECK(parsed.error->code == ErrorCode::kConfigMissing);
    CHECK(parsed.error->message.find(key) != std::string::npos);
    CHECK(parsed.error->file == "dir/config.json");
    CHECK(parsed.family == nullptr);
    CHECK_FALSE(parsed.config.has_value());
  }
  const HfConfig inner = ParseWith(R"(,"rope_scaling": {"type": "llama3", "factor": 2})");
  REQUIRE(inner.error.has_value());
  CHECK(inner.error->code == ErrorCode::kConfigMissing);
  CHECK(inner.error->message.find("rope_scaling.low_freq_factor") != std::string::npos);
}

TEST_CASE("wrong values are refused by key") {
  struct Case {
    const char* from;
    const char* to;
    const char* key;
    ErrorCode code;
  };
  const std::vector<Case> cases = {
      {"96", "-96", "hidden_size", ErrorCode::kConfigInvalid},
      {"96", "96.0", "hidden_size", ErrorCode::kConfigInvalid},
      {"96", "\"96\"", "hidden_size", ErrorCode::kConfigInvalid},
      {"96", "18446744073709551615", "hidden_size", ErrorCode::kConfigInvalid},
      {"96", "0", "hidden_size", ErrorCode::kConfigInvalid},
      {"\"num_hidden_layers\": 3", "\"num_hidden_layers\": 1000000000", "num_hidden_layers",
       ErrorCode::kConfigInvalid},
      {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4", "num_key_value_heads",
       ErrorCode::kConfigInvalid},
      {"96", "100", "num_attention_heads", ErrorCode::kConfigInvalid},
      {"96", "90", "head_dim", ErrorCode::kConfigInvalid},  // 15: odd
      {"1e-05", "0", "rms_norm_eps", ErrorCode::kConfigInvalid},
      {"1e-05", "\"x\"", "rms_norm_eps", ErrorCode::kConfigInvalid},
      {"500000.0", "-1", "rope_theta", ErrorCode::kConfigInvalid},
      {"\"bos_token_id\": 1", "\"bos_token_id\": 320", "bos_token_id", ErrorCode::kConfigInvalid},
      {"[\"LlamaForCausalLM\"]", "7", "architectures", ErrorCode::kConfigInvalid},
      {"\"bos_token_id\": 1", "\"tie_word_embeddings\": 1", "tie_word_embeddings",
       ErrorCode::kConfigInvalid},
      {"\"bos_token_id\": 1", "\"hidden_act\": \"gelu\"", "hidden_act", ErrorCode::kUnsupported},
      {"\"bos_token_id\": 1", "\"partial_rotary_factor\": 0.5", "partial_rotary_factor",
       ErrorCode::kUnsupported},
      {"\"bos_token_id\": 1", "\"sliding_window\": -128", "sliding_window",
       ErrorCode::kConfigInvalid},
      {"\"bos_token_id\": 1", "\"sliding_window\": \"128\"", "sliding_window",
       ErrorCode::kConfigInvalid},
      {"\"bos_token_id\": 1", "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2}", "rope_type",
       ErrorCode::kUnsupported},
      {"\"bos_token_id\": 1", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}",
       "rope_scaling.factor", ErrorCode::kConfigInvalid},
      {"\"bos_token_id\": 1", "\"rope_scaling\": [1]", "rope_scaling", ErrorCode::kConfigInvalid},
      {"\"bos_token_id\": 1",
       "\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, "
       "\"high_freq_factor\": 4, \"original_max_position_embeddings\": 64}",
       "rope_scaling.high_freq_factor", ErrorCode::kConfigInvalid},
  };
  for (const Case& wrong : cases) {
    CAPTURE(wrong.key);
    CAPTURE(wrong.to);
    const HfConfig parsed = ParseChanged(wrong.from, wrong.to);
    REQUIRE(parsed.error.has_value());
    CHECK(std::string(ErrorCodeName(parsed.error->code)) == ErrorCodeName(wrong.code));
    CHECK(parsed.error->message.find(wrong.key) != std::string::npos);
    CHECK(parsed.error->file == "dir/config.json");
    CHECK(parsed.family == nullptr);
  }
  CHECK_FALSE(
      ParseWith(R"(,"sliding_window": 128, "use_sliding_window": false)").error.has_value());
}

TEST_CASE("an unknown architecture keeps what is known and lists the families") {
  const HfConfig parsed = Parse(R"({"architectures": ["RwkvForCausalLM"], "hidden_size": 64,
      "num_hidden_layers": 2, "num_local_experts": 8, "vocab_size": -3, "num_attention_heads": "x"})");
  REQUIRE(parsed.error.has_value());
  CHECK(parsed.error->code == ErrorCode::kUnknownFamily);
  CHECK(parsed.error->message.find("RwkvForCausalLM") != std::string::npos);
  CHECK(parsed.error->hint.find("LlamaForCausalLM") != std::string::npos);
  CHECK(parsed.family == nullptr);
  REQUIRE(parsed.config.has_value());
  CHECK(parsed.config->architecture == "RwkvForCausalLM");
  CHECK(parsed.config->family.empty());
  CHECK(parsed.config->hidden_size == 64);
  CHECK(parsed.config->layers == 2);
  CHECK(parsed.config->experts == 8);
  CHECK(parsed.config->vocab_size == 0);
  CHECK(parsed.config->heads == 0);
  CHECK(Parse("{}").error->code == ErrorCode::kUnknownFamily);
}

TEST_CASE("a file that is no JSON object is an invalid config") {
  const test::ScratchFolder folder;
  for (const char* text : {"", "{", "[]", "nonsense", "{\"a\": 01}"}) {
    const std::string path = folder.Write("config.json", text);
    const auto json = ReadConfigObject(path);
    REQUIRE_FALSE(json.ok());
    CHECK(json.error().code == ErrorCode::kConfigInvalid);
    CHECK(json.error().file == path);
  }
  CHECK(ReadConfigObject(folder.Path("none.json")).error().code == ErrorCode::kNotFound);
}

}  // namespace
}  // namespace pennyweight
