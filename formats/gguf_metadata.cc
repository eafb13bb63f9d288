#include "formats/gguf_metadata.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/gguf_rope.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

// The keys of one architecture: "llama.block_count" for "block_count".
class ArchKeys {
 public:
  ArchKeys(const GgufFile& file, std::string architecture)
      : file_(file), prefix_(std::move(architecture) + ".") {}

  bool Has(std::string_view suffix) const { return Find(suffix) != nullptr; }

  // An integer in [1, max], or an array of equal ones. A missing optional key leaves `out`.
  Status Count(std::string_view suffix, bool required, int64_t max, int64_t* out) const {
    const GgufEntry* entry = Find(suffix);
    if (entry == nullptr) return Missing(suffix, required);
    std::optional<int64_t> value = file_.AsInteger(*entry);
    if (entry->count > static_cast<uint64_t>(limits::kLayers)) {
      return Error(ErrorCode::kConfigInvalid,
                   fmt::format("key \"{}\" has {} values; at most {} "
                               "layers are taken",
                               entry->key, entry->count, limits::kLayers))
          .At(entry->offset);
    }
    if (const auto values = file_.AsIntegers(*entry); values && !values->empty()) {
      const bool equal = std::all_of(values->begin(), values->end(),
                                     [&](int64_t v) { return v == values->front(); });
      if (!equal) return Differs(*entry);
      value = values->front();
    }
    if (!value || *value < 1 || *value > max) {
      return Error(ErrorCode::kConfigInvalid,
                   fmt::format("key \"{}\" is {}, not an integer from 1 to {}", entry->key,
                               file_.Printable(*entry), max))
          .At(entry->offset);
    }
    *out = *value;
    return OkStatus();
  }

  // A finite number above 0. A missing optional key leaves `out`.
  Status Positive(std::string_view suffix, bool required, double* out) const {
    const GgufEntry* entry = Find(suffix);
    if (entry == nullptr) return Missing(suffix, required);
    const std::optional<double> value = file_.AsDouble(*entry);
    if (!value || !std::isfinite(*value) || *value <= 0) {
      return Error(ErrorCode::kConfigInvalid, fmt::format("key \"{}\" is {}, not a number above 0",
                                                          entry->key, file_.Printable(*entry)))
          .At(entry->offset);
    }
    *out = *value;
    return OkStatus();
  }

  std::string Text(std::string_view suffix) const {
    const GgufEntry* entry = Find(suffix);
    return entry == nullptr ? "" : std::string(file_.AsString(*entry).value_or(""));
  }

  // True when the key is absent, 0 or false.
  bool Off(std::string_view suffix) const {
    const GgufEntry* entry = Find(suffix);
    if (entry == nullptr) return true;
    if (const auto flag = file_.AsBool(*entry)) return !*flag;
    return file_.AsDouble(*entry).value_or(1) == 0;  // a text is not off, but wrong
  }

 private:
  const GgufEntry* Find(std::string_view suffix) const {
    return file_.Find(prefix_ + std::string(suffix));
  }
  Status Missing(std::string_view suffix, bool required) const {
    if (!required) return OkStatus();
    return Error(ErrorCode::kConfigMissing,
                 fmt::format("the metadata have no key \"{}{}\"", prefix_, suffix));
  }
  static Status Differs(const GgufEntry& entry) {
    return Error(ErrorCode::kUnsupported,
                 fmt::format("key \"{}\" differs from layer to layer", entry.key))
        .At(entry.offset);
  }

  const GgufFile& file_;
  std::string prefix_;
};

DType DTypeOfFileType(const GgufFile& file) {
  const GgufEntry* entry = file.Find("general.file_type");
  const int64_t type = entry == nullptr ? -1 : file.AsInteger(*entry).value_or(-1);
  if (type == 0) return DType::kF32;
  if (type == 32) return DType::kBF16;
  return DType::kF16;  // what the scales of nearly all block types are
}

Status ReadRopeFreqs(const std::vector<GgufFile>& files, ModelConfig* config) {
  const GgufTensorPlace place = FindTensor(files, kRopeFreqsName);
  if (place.tensor == nullptr) return OkStatus();
  const GgufTensor& tensor = *place.tensor;
  std::optional<RopeScaling> fitted;
  const auto count = static_cast<size_t>(config->head_dim / 2);
  if (tensor.encoding == Encoding::Plain(DType::kF32) && tensor.bytes == count * sizeof(float)) {
    std::vector<float> factors(count);
    const ReadFile& file = files[place.file].file();
    PW_TRY(file.ReadAt(tensor.offset, factors.data(), tensor.bytes));
    fitted = FitRopeFactors(factors, config->rope_theta, config->head_dim);
  }
  if (!fitted) {
    return Error(ErrorCode::kUnsupported, "it is no rope scaling of the llama3 kind")
        .InTensor(tensor.name)
        .At(tensor.offset);
  }
  if (fitted->kind == RopeScaling::Kind::kNone) return OkStatus();
  if (config->rope_scaling.kind != RopeScaling::Kind::kNone) {
    return Error(ErrorCode::kUnsupported, "rope is scaled twice: by keys and by this tensor")
        .InTensor(tensor.name);
  }
  config->rope_scaling = *fitted;
  return OkStatus();
}

Status ReadRope(const std::vector<GgufFile>& files, const ArchKeys& keys, ModelConfig* config) {
  PW_TRY(keys.Positive("rope.freq_base", false, &config->rope_theta));
  int64_t dimensions = config->head_dim;
  PW_TRY(keys.Count("rope.dimension_count", false, limits::kDimension, &dimensions));
  if (dimensions != config->head_dim) {
    return Error(ErrorCode::kUnsupported,
                 fmt::format("rope turns {} of {} values of a head", dimensions, config->head_dim));
  }
  // The loader's defaults: linear, by 1; rope.scale_linear is the key of older files.
  const std::string type = keys.Text("rope.scaling.type");
  double factor = 1.0;
  PW_TRY(keys.Positive("rope.scale_linear", false, &factor));
  if (!keys.Off("rope.scaling.factor")) {
    PW_TRY(keys.Positive("rope.scaling.factor", false, &factor));
  }
  if (!type.empty() && type != "none" && type != "linear") {
    return Error(ErrorCode::kUnsupported, fmt::format("rope scaling of type \"{}\"", type));
  }
  if (type != "none" && factor != 1.0) {
    config->rope_scaling.kind = RopeScaling::Kind::kLinear;
    config->rope_scaling.factor = factor;
  }
  return ReadRopeFreqs(files, config);
}

Status ReadSizes(const ArchKeys& keys, ModelConfig* config) {
  PW_TRY(keys.Count("block_count", true, limits::kLayers, &config->layers));
  PW_TRY(keys.Count("context_length", true, INT64_MAX, &config->context_length));
  PW_TRY(keys.Count("embedding_length", true, limits::kDimension, &config->hidden_size));
  PW_TRY(keys.Count("feed_forward_length", true, limits::kDimension, &config->intermediate_size));
  PW_TRY(keys.Count("attention.head_count", true, limits::kDimension, &config->heads));
  config->kv_heads = config->heads;
  PW_TRY(keys.Count("attention.head_count_kv", false, limits::kDimension, &config->kv_heads));
  PW_TRY(keys.Positive("attention.layer_norm_rms_epsilon", true, &config->rms_norm_eps));
  if (!keys.Off("attention.sliding_window")) {
    PW_TRY(keys.Count("attention.sliding_window", true, INT64_MAX, &config->sliding_window));
  }
  const bool has_length = keys.Has("attention.key_length");
  if (!has_length && config->hidden_size % config->heads != 0) {
    return Error(ErrorCode::kConfigInvalid,
                 fmt::format("an embedding of {} does not divide into {} heads",
                             config->hidden_size, config->heads));
  }
  config->head_dim = config->hidden_size / config->heads;
  PW_TRY(keys.Count("attention.key_length", false, limits::kDimension, &config->head_dim));
  int64_t value_dim = config->head_dim;
  PW_TRY(keys.Count("attention.value_length", false, limits::kDimension, &value_dim));
  if (value_dim != config->head_dim) {
    return Error(ErrorCode::kUnsupported,
                 fmt::format("keys of {} values and values of {}", config->head_dim, value_dim));
  }
  if (config->heads % config->kv_heads != 0 || config->head_dim % 2 != 0) {
    return Error(ErrorCode::kConfigInvalid,
                 fmt::format("{} heads, {} key heads, {} values a head", config->heads,
                             config->kv_heads, config->head_dim));
  }
  return OkStatus();
}

Status ReadExperts(const ArchKeys& keys, ModelConfig* config) {
  PW_TRY(keys.Count("expert_count", true, limits::kExperts, &config->experts));
  return keys.Count("expert_used_count", true, config->experts, &config->experts_per_token);
}

// Rows of the embedding, else the key, else the tokens.
Status ReadVocabularySize(const std::vector<GgufFile>& files, const Family& family,
                          const ArchKeys& keys, ModelConfig* config) {
  PW_TRY(keys.Count("vocab_size", false, static_cast<int64_t>(limits::kVocabulary),
                    &config->vocab_size));
  if (config->vocab_size == 0) {
    const GgufEntry* tokens = files.front().Find("tokenizer.ggml.tokens");
    if (tokens != nullptr) config->vocab_size = static_cast<int64_t>(tokens->count);
  }
  const TensorPlace place = PlaceOfHf(family, family.embedding);
  if (place.rule == nullptr) return OkStatus();
  const GgufTensorPlace found = FindTensor(files, place.rule->gguf);
  if (found.tensor != nullptr && found.tensor->shape.size() == 2) {
    config->vocab_size = found.tensor->shape[0];
  }
  return OkStatus();
}

// nullopt when there is none, or one that is no token.
std::optional<int64_t> TokenId(const GgufFile& file, std::string_view name, int64_t tokens) {
  const GgufEntry* entry = file.Find(fmt::format("tokenizer.ggml.{}_token_id", name));
  const std::optional<int64_t> id = entry == nullptr ? std::nullopt : file.AsInteger(*entry);
  return id && *id >= 0 && *id < tokens ? id : std::nullopt;
}

std::string KnownFamilies() {
  std::string out;
  for (const Family& family : Families()) {
    out += (out.empty() ? "" : ", ") + std::string(family.gguf_architecture);
  }
  return out;
}

// What chooses types in a model of no known family. Nothing is run by it, so what is wrong or
// differs from layer to layer is passed over.
void FillWhatIsKnown(const ArchKeys& keys, ModelConfig* config) {
  constexpr int64_t kMax = limits::kDimension;
  const auto count = [&](std::string_view suffix, int64_t max, int64_t* out) {
    const Status ignored = keys.Count(suffix, false, max, out);
    static_cast<void>(ignored);
  };
  count("block_count", limits::kLayers, &config->layers);
  count("attention.head_count", kMax, &config->heads);
  config->kv_heads = config->heads;
  count("attention.head_count_kv", kMax, &config->kv_heads);
  count("expert_count", kMax, &config->experts);
}

Error UnknownFamily(std::string text) {
  return Error(ErrorCode::kUnknownFamily, std::move(text))
      .Hint("known architectures: " + KnownFamilies());
}

}  // namespace

GgufTensorPlace FindTensor(const std::vector<GgufFile>& files, std::string_view name) {
  for (size_t i = 0; i < files.size(); ++i) {
    const GgufTensor* tensor = files[i].FindTensor(name);
    if (tensor != nullptr) return {tensor, i};
  }
  return {};
}

Status ReadGgufConfig(const std::vector<GgufFile>& files, ModelConfig* config) {
  const GgufFile& file = files.front();
  const auto text = [&](std::string_view key) {
    const GgufEntry* entry = file.Find(key);
    return entry == nullptr ? std::string() : std::string(file.AsString(*entry).value_or(""));
  };
  config->name = text("general.name");
  config->architecture = text("general.architecture");
  if (config->architecture.empty()) {
    return Error(ErrorCode::kConfigMissing, "the metadata have no key \"general.architecture\"");
  }
  const ArchKeys keys(file, config->architecture);
  const bool experts = !keys.Off("expert_count");
  const Family* family = FindFamilyByGguf(config->architecture, experts);
  if (family == nullptr) {
    FillWhatIsKnown(keys, config);
    return UnknownFamily(fmt::format("the architecture \"{}\"{} is not known", config->architecture,
                                     experts ? " with experts" : ""));
  }
  for (const char* key :
       {"logit_scale", "attn_logit_softcapping", "final_logit_softcapping", "embedding_scale",
        "residual_scale", "expert_shared_count", "expert_weights_scale"}) {
    if (keys.Off(key)) continue;
    return Error(
        ErrorCode::kUnsupported,
        fmt::format("key \"{}.{}\" changes how the model computes", config->architecture, key));
  }
  PW_TRY(ReadSizes(keys, config));
  if (experts) PW_TRY(ReadExperts(keys, config));
  PW_TRY(ReadVocabularySize(files, *family, keys, config));
  PW_TRY(ReadRope(files, keys, config));
  const TensorPlace head = PlaceOfHf(*family, family->head);
  config->tie_embeddings =
      head.rule != nullptr && FindTensor(files, head.rule->gguf).tensor == nullptr;
  config->dtype = DTypeOfFileType(file);
  config->bos_id = TokenId(file, "bos", config->vocab_size);
  config->eos_id = TokenId(file, "eos", config->vocab_size);
  // The same tensors and steps: the name under which a window is told in config.json.
  const Family* mistral = FindFamily("mistral");
  const bool window = config->sliding_window > 0 && SameComputation(*family, *mistral);
  config->family = window ? mistral->name : family->name;
  return OkStatus();
}

void AddConfigKeys(const Family& family, const ModelConfig& config, GgufHeader* header) {
  const std::string arch(family.gguf_architecture);
  const auto u32 = [&](const char* suffix, int64_t value) {
    header->AddU32(arch + suffix, static_cast<uint32_t>(value));
  };
  const auto f32 = [&](const char* suffix, double value) {
    header->AddF32(arch + suffix, static_cast<float>(value));
  };
  header->AddString("general.architecture", arch);
  header->AddString("general.type", "model");
  if (!config.name.empty()) header->AddString("general.name", config.name);
  u32(".block_count", config.layers);
  u32(".context_length", std::min<int64_t>(config.context_length, UINT32_MAX));
  u32(".embedding_length", config.hidden_size);
  u32(".feed_forward_length", config.intermediate_size);
  u32(".attention.head_count", config.heads);
  u32(".attention.head_count_kv", config.kv_heads);
  u32(".attention.key_length", config.head_dim);
  u32(".attention.value_length", config.head_dim);
  // llama.cpp does not look for it under these architectures.
  if (config.sliding_window > 0) {
    u32(".attention.sliding_window", std::min<int64_t>(config.sliding_window, UINT32_MAX));
  }
  if (config.experts > 0) {
    u32(".expert_count", config.experts);
    u32(".expert_used_count", config.experts_per_token);
  }
  f32(".attention.layer_norm_rms_epsilon", config.rms_norm_eps);
  u32(".vocab_size", config.vocab_size);
  u32(".rope.dimension_count", config.head_dim);
  f32(".rope.freq_base", config.rope_theta);
  if (config.rope_scaling.kind == RopeScaling::Kind::kLinear) {
    header->AddString(arch + ".rope.scaling.type", "linear");
    f32(".rope.scaling.factor", config.rope_scaling.factor);
  }
}

}  // namespace pennyweight
