#include "formats/hf_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "formats/json_fields.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

constexpr int64_t kMaxContext = int64_t{1} << 32;

// What transformers takes where a family's config.json has no such key
// (models/*/configuration_*.py).
struct Defaults {
  std::string_view family;
  int64_t kv_heads;  // 0: as many as heads
  int64_t context;
  double rope_theta;
  int64_t sliding_window;  // 0: none
};
constexpr Defaults kDefaults[] = {
    {"llama", 0, 2048, 1e4, 0},
    {"mistral", 8, 131072, 1e4, 4096},
    {"mixtral", 8, 131072, 1e6, 0},
    {"qwen2", 32, 32768, 1e4, 0},
};

const Defaults& DefaultsOf(const Family& family) {
  for (const Defaults& row : kDefaults) {
    if (row.family == family.name) return row;
  }
  return kDefaults[0];
}

Result<RopeScaling> ParseRopeType(const JsonFields& rope) {
  RopeScaling scaling;
  PW_ASSIGN(std::optional<std::string> type, rope.GetString("rope_type"));
  if (!type) {
    PW_ASSIGN(type, rope.GetString("type"));
  }
  if (!type || *type == "default") return scaling;
  if (*type == "linear") {
    scaling.kind = RopeScaling::Kind::kLinear;
    PW_ASSIGN(scaling.factor, rope.RequirePositive("factor"));
    return scaling;
  }
  if (*type != "llama3") {
    return rope.Unsupported("rope_type",
                            fmt::format("\"{:.40}\" is not computed here; known are default, "
                                        "linear, llama3",
                                        *type));
  }
  scaling.kind = RopeScaling::Kind::kLlama3;
  PW_ASSIGN(scaling.factor, rope.RequirePositive("factor"));
  PW_ASSIGN(scaling.low_freq_factor, rope.RequirePositive("low_freq_factor"));
  PW_ASSIGN(scaling.high_freq_factor, rope.RequirePositive("high_freq_factor"));
  PW_ASSIGN(scaling.original_context_length,
            rope.RequireInteger("original_max_position_embeddings", 1, kMaxContext));
  // The formula divides by their difference.
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    return rope.Invalid("high_freq_factor", "must be above low_freq_factor");
  }
  return scaling;
}

// transformers 5 writes one object "rope_parameters" with theta and scaling; before that theta
// stood alone and "rope_scaling" held the rest. The newer one wins, as it does there.
Status ParseRope(const JsonFields& fields, ModelConfig* config) {
  PW_ASSIGN(const std::optional<double> theta, fields.GetPositive("rope_theta"));
  if (theta) config->rope_theta = *theta;
  PW_ASSIGN(const std::optional<JsonFields> parameters, fields.GetObject("rope_parameters"));
  if (parameters) {
    PW_ASSIGN(const std::optional<double> inner_theta, parameters->GetPositive("rope_theta"));
    if (inner_theta) config->rope_theta = *inner_theta;
    PW_ASSIGN(config->rope_scaling, ParseRopeType(*parameters));
    return OkStatus();
  }
  PW_ASSIGN(const std::optional<JsonFields> scaling, fields.GetObject("rope_scaling"));
  if (scaling) {
    PW_ASSIGN(config->rope_scaling, ParseRopeType(*scaling));
  }
  return OkStatus();
}

// An id, or a list of ids of which the first is taken. Negative means none.
Result<std::optional<int64_t>> ParseTokenId(const JsonFields& fields, std::string_view key,
                                            int64_t vocab_size) {
  const Json* value = fields.Value(key);
  if (value == nullptr) return std::optional<int64_t>();
  if (value->is_array()) {
    if (value->items().empty()) return std::optional<int64_t>();
    value = &value->items().front();
  }
  const std::optional<int64_t> id = value->AsInteger();
  if (!id || *id >= vocab_size) {
    return fields.Invalid(key, fmt::format("must be a token id below vocab_size {}", vocab_size));
  }
  if (*id < 0) return std::optional<int64_t>();
  return id;
}

Status ParseSizes(const JsonFields& fields, const Defaults& defaults, ModelConfig* config) {
  constexpr int64_t kMax = limits::kDimension;
  PW_ASSIGN(config->hidden_size, fields.RequireInteger("hidden_size", 1, kMax));
  PW_ASSIGN(config->intermediate_size, fields.RequireInteger("intermediate_size", 1, kMax));
  PW_ASSIGN(config->layers, fields.RequireInteger("num_hidden_layers", 1, limits::kLayers));
  PW_ASSIGN(config->heads, fields.RequireInteger("num_attention_heads", 1, kMax));
  PW_ASSIGN(config->vocab_size, fields.RequireInteger("vocab_size", 1, kMax));
  PW_ASSIGN(const auto kv_heads, fields.GetInteger("num_key_value_heads", 1, kMax));
  const bool from_family = defaults.kv_heads > 0 && !fields.Stands("num_key_value_heads");
  config->kv_heads = kv_heads.value_or(from_family ? defaults.kv_heads : config->heads);
  if (config->heads % config->kv_heads != 0) {
    return fields.Invalid(
        "num_key_value_heads",
        fmt::format("{} must divide num_attention_heads {}", config->kv_heads, config->heads));
  }
  PW_ASSIGN(const auto head_dim, fields.GetInteger("head_dim", 1, kMax));
  if (!head_dim && config->hidden_size % config->heads != 0) {
    return fields.Invalid("num_attention_heads",
                          fmt::format("{} must divide hidden_size {} when there is no head_dim",
                                      config->heads, config->hidden_size));
  }
  config->head_dim = head_dim.value_or(config->hidden_size / config->heads);
  if (config->head_dim % 2 != 0) {
    return fields.Invalid("head_dim",
                          fmt::format("{} must be even: positions rotate pairs", config->head_dim));
  }
  PW_ASSIGN(const auto context, fields.GetInteger("max_position_embeddings", 1, kMaxContext));
  config->context_length = context.value_or(defaults.context);
  return OkStatus();
}

// Keys that change the computation in a way the family's layer does not have.
Status CheckComputation(const JsonFields& fields) {
  PW_ASSIGN(const auto activation, fields.GetString("hidden_act"));
  if (activation && *activation != "silu" && *activation != "swish") {
    return fields.Unsupported("hidden_act",
                              fmt::format("\"{:.40}\" is not computed here", *activation));
  }
  PW_ASSIGN(const auto partial, fields.GetPositive("partial_rotary_factor"));
  if (partial && *partial != 1.0) {
    return fields.Unsupported("partial_rotary_factor", "only 1.0 is computed here");
  }
  return OkStatus();
}

// A window is no obstacle by itself: contexts up to its length are computed as without it.
Status ParseSlidingWindow(const JsonFields& fields, const Family& family, ModelConfig* config) {
  PW_ASSIGN(const auto window, fields.GetInteger("sliding_window", 1, kMaxContext));
  // Qwen2's alone, and false unless it is there.
  PW_ASSIGN(const auto use, fields.GetBool("use_sliding_window"));
  if (!use.value_or(family.name != "qwen2")) return OkStatus();
  const bool stands = fields.Stands("sliding_window");
  config->sliding_window = window.value_or(stands ? 0 : DefaultsOf(family).sliding_window);
  return OkStatus();
}

Status ParseExperts(const JsonFields& fields, ModelConfig* config) {
  PW_ASSIGN(config->experts, fields.RequireInteger("num_local_experts", 1, limits::kExperts));
  PW_ASSIGN(config->experts_per_token,
            fields.RequireInteger("num_experts_per_tok", 1, limits::kExperts));
  if (config->experts_per_token > config->experts) {
    return fields.Invalid("num_experts_per_tok",
                          fmt::format("must be at most num_local_experts {}", config->experts));
  }
  return OkStatus();
}

Status ParseKnownFamily(const JsonFields& fields, const Family& family, ModelConfig* config) {
  const Defaults& defaults = DefaultsOf(family);
  config->rope_theta = defaults.rope_theta;
  PW_TRY(ParseSizes(fields, defaults, config));
  if (HasExperts(family)) PW_TRY(ParseExperts(fields, config));
  PW_TRY(ParseSlidingWindow(fields, family, config));
  PW_ASSIGN(config->rms_norm_eps, fields.RequirePositive("rms_norm_eps"));
  PW_TRY(ParseRope(fields, config));
  PW_ASSIGN(const auto tied, fields.GetBool("tie_word_embeddings"));
  config->tie_embeddings = tied.value_or(false);
  PW_ASSIGN(config->bos_id, ParseTokenId(fields, "bos_token_id", config->vocab_size));
  PW_ASSIGN(config->eos_id, ParseTokenId(fields, "eos_token_id", config->vocab_size));
  return CheckComputation(fields);
}

int64_t IntegerOrZero(const Json& json, std::string_view key) {
  const Json* value = json.Find(key);
  const std::optional<int64_t> number = value == nullptr ? std::nullopt : value->AsInteger();
  return number && *number > 0 ? *number : 0;
}

// For people: whatever an unknown model says under the usual names. Nothing is run by it.
void FillWhatIsKnown(const Json& json, ModelConfig* config) {
  config->hidden_size = IntegerOrZero(json, "hidden_size");
  config->intermediate_size = IntegerOrZero(json, "intermediate_size");
  config->layers = IntegerOrZero(json, "num_hidden_layers");
  config->heads = IntegerOrZero(json, "num_attention_heads");
  config->kv_heads = IntegerOrZero(json, "num_key_value_heads");
  config->head_dim = IntegerOrZero(json, "head_dim");
  config->vocab_size = IntegerOrZero(json, "vocab_size");
  config->context_length = IntegerOrZero(json, "max_position_embeddings");
  for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts"}) {
    config->experts = std::max(config->experts, IntegerOrZero(json, key));
  }
  const Json* tied = json.Find("tie_word_embeddings");
  config->tie_embeddings = tied != nullptr && tied->AsBool().value_or(false);
}

Error UnknownFamily(const std::string& architecture, const std::string& file) {
  std::string known;
  for (const Family& family : Families()) {
    if (!known.empty()) known += ", ";
    known += family.hf_architecture;
  }
  const std::string what = architecture.empty()
                               ? "the model does not say its architecture"
                               : fmt::format("architecture \"{:.100}\" is not known", architecture);
  return Error(ErrorCode::kUnknownFamily, what).Hint("known families: " + known).InFile(file);
}

// The first of "architectures"; empty when there is none.
Result<std::string> Architecture(const JsonFields& fields) {
  const Json* list = fields.Value("architectures");
  if (list == nullptr) return std::string();
  if (!list->is_array() || (!list->items().empty() && !list->items().front().is_string())) {
    return fields.Invalid("architectures", "must be a list of strings");
  }
  return list->items().empty() ? std::string() : list->items().front().str();
}

// Fills `config` and finds the family; nullptr when it is not known.
Result<const Family*> ParseAny(const Json& json, const JsonFields& fields, ModelConfig* config,
                               bool* has_dtype) {
  PW_ASSIGN(config->architecture, Architecture(fields));
  PW_ASSIGN(const std::optional<std::string> model_type, fields.GetString("model_type"));
  const Family* family = FindFamilyByHf(config->architecture, model_type.value_or(""));
  if (config->architecture.empty()) config->architecture = model_type.value_or("");
  // "dtype" is the newer name of "torch_dtype".
  for (const char* key : {"torch_dtype", "dtype"}) {
    const Json* value = fields.Value(key);
    const std::optional<DType> dtype =
        value != nullptr && value->is_string() ? DTypeFromTorch(value->str()) : std::nullopt;
    if (dtype) {
      config->dtype = *dtype;
      *has_dtype = true;
    }
  }
  if (family == nullptr) {
    FillWhatIsKnown(json, config);
    return family;
  }
  config->family = std::string(family->name);
  PW_TRY(ParseKnownFamily(fields, *family, config));
  return family;
}

}  // namespace

std::optional<DType> DTypeFromTorch(std::string_view name) {
  constexpr std::string_view kPrefix = "torch.";
  if (name.substr(0, kPrefix.size()) == kPrefix) name.remove_prefix(kPrefix.size());
  if (name == "float32" || name == "float") return DType::kF32;
  if (name == "float16" || name == "half") return DType::kF16;
  if (name == "bfloat16") return DType::kBF16;
  return std::nullopt;
}

HfConfig ParseHfConfig(const Json& json, const std::string& file, const std::string& name) {
  HfConfig out;
  ModelConfig config;
  config.name = name;
  Result<const Family*> family = ParseAny(json, JsonFields(json, file), &config, &out.has_dtype);
  if (!family.ok()) {
    out.error = std::move(family).TakeError();
    return out;
  }
  out.family = *family;
  if (out.family == nullptr) out.error = UnknownFamily(config.architecture, file);
  out.config = std::move(config);
  return out;
}

}  // namespace pennyweight
