#include "formats/hf_output.h"

#include <algorithm>
#include <array>
#include <map>
#include <string_view>
#include <utility>

#include "lib/fold_record.h"

namespace pennyweight {
namespace {

std::string Upper(std::string_view text) {
  std::string upper(text);
  std::transform(upper.begin(), upper.end(), upper.begin(),
                 [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; });
  return upper;
}

constexpr std::array<std::string_view, 15> kCopiedNames = {
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
};
constexpr std::array<std::string_view, 6> kCopiedPrefixes = {
    "LICENSE", "LICENCE", "NOTICE", "COPYING", "README", "USE_POLICY",
};

bool IsCopied(std::string_view name) {
  if (std::find(kCopiedNames.begin(), kCopiedNames.end(), name) != kCopiedNames.end()) return true;
  if (name.ends_with(".tiktoken")) return true;
  const std::string upper = Upper(name);
  return std::any_of(kCopiedPrefixes.begin(), kCopiedPrefixes.end(),
                     [&](std::string_view prefix) { return upper.starts_with(prefix); });
}

// Written anew rather than copied.
bool IsRewritten(std::string_view name) {
  return name == "config.json" || name == kFoldsFile || name.ends_with(".safetensors") ||
         name.ends_with(".safetensors.index.json") || name == "pytorch_model.bin.index.json" ||
         (name.starts_with("pytorch_model") && name.ends_with(".bin"));
}

Json RopeScalingConfig(const RopeScaling& rope) {
  Json scaling = Json::Object();
  scaling.Set("factor", Json::Double(rope.factor));
  if (rope.kind == RopeScaling::Kind::kLinear) {
    scaling.Set("rope_type", Json::String("linear"));
    return scaling;
  }
  scaling.Set("high_freq_factor", Json::Double(rope.high_freq_factor));
  scaling.Set("low_freq_factor", Json::Double(rope.low_freq_factor));
  scaling.Set("original_max_position_embeddings", Json::Integer(rope.original_context_length));
  scaling.Set("rope_type", Json::String("llama3"));
  return scaling;
}

// The configuration of a model that came without config.json, under the hub's usual keys.
Json ConfigFromModel(const ModelConfig& config, const Family& family) {
  Json architectures = Json::Array();
  architectures.Push(Json::String(std::string(family.hf_architecture)));
  Json out = Json::Object();
  out.Set("architectures", std::move(architectures));
  out.Set("model_type", Json::String(std::string(family.hf_model_type)));
  if (config.bos_id) out.Set("bos_token_id", Json::Integer(*config.bos_id));
  if (config.eos_id) out.Set("eos_token_id", Json::Integer(*config.eos_id));
  out.Set("head_dim", Json::Integer(config.head_dim));
  out.Set("hidden_act", Json::String("silu"));
  out.Set("hidden_size", Json::Integer(config.hidden_size));
  out.Set("intermediate_size", Json::Integer(config.intermediate_size));
  out.Set("max_position_embeddings", Json::Integer(config.context_length));
  out.Set("num_attention_heads", Json::Integer(config.heads));
  if (config.experts > 0) {
    out.Set("num_experts_per_tok", Json::Integer(config.experts_per_token));
    out.Set("num_local_experts", Json::Integer(config.experts));
  }
  out.Set("num_hidden_layers", Json::Integer(config.layers));
  out.Set("num_key_value_heads", Json::Integer(config.kv_heads));
  out.Set("rms_norm_eps", Json::Double(config.rms_norm_eps));
  out.Set("rope_scaling", config.rope_scaling.kind == RopeScaling::Kind::kNone
                              ? Json()
                              : RopeScalingConfig(config.rope_scaling));
  out.Set("rope_theta", Json::Double(config.rope_theta));
  if (config.sliding_window > 0) {
    out.Set("sliding_window", Json::Integer(config.sliding_window));
    out.Set("use_sliding_window", Json::Bool(true));
  }
  out.Set("tie_word_embeddings", Json::Bool(config.tie_embeddings));
  out.Set("torch_dtype", Json::String(TorchDtypeName(config.dtype)));
  out.Set("vocab_size", Json::Integer(config.vocab_size));
  return out;
}

// Blocks come from GGUF files too, but then there is no claim in a config.json to drop.
bool HasQuantizedTensors(const Model& model) {
  if (model.source == nullptr) return false;
  // A source that put parts together is named for their layout; whatever it lists, they are gone.
  const std::string_view format = model.source->format();
  if (format != "safetensors" && format != "pytorch") return true;
  const auto& list = model.source->tensors();
  return std::any_of(list.begin(), list.end(), [](const TensorInfo& info) {
    return info.encoding.kind != Encoding::Kind::kPlain;
  });
}

Result<Json> InputConfig(const Model& model) {
  if (!model.directory.empty()) {
    const std::string path = JoinPath(model.directory, "config.json");
    if (PathExists(path)) {
      PW_ASSIGN(Json config, Json::ParseFile(path));
      if (!config.is_object()) {
        return Error(ErrorCode::kConfigInvalid, "the configuration is not a JSON object")
            .InFile(path);
      }
      return config;
    }
  }
  if (model.config && model.family != nullptr) return ConfigFromModel(*model.config, *model.family);
  return Error(ErrorCode::kConfigMissing, "a folder needs config.json, and the input has none")
      .Hint("give an output that ends in .safetensors: that is one file of tensors")
      .InFile(model.path);
}

// A group or block as long as the row (or the column) is the whole of it: a file does not tell the
// two apart.
bool SameEncoding(Encoding a, Encoding b, int64_t rows, int64_t cols) {
  for (Encoding* e : {&a, &b}) {
    if (e->integer.group_size == cols) e->integer.group_size = 0;
    if (e->scaled.block_cols >= cols) e->scaled.block_cols = 0;
    if (e->scaled.block_rows >= rows && e->scaled.block_cols == 0) e->scaled.block_rows = 0;
  }
  return a == b;
}

// `path` without slashes at its end.
std::string TrimSlashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

std::string ParentOf(const std::string& path) {
  const std::string trimmed = TrimSlashes(path);
  const size_t slash = trimmed.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : trimmed.substr(0, slash);
}

}  // namespace

Result<CompanionFiles> ListCompanionFiles(const std::string& directory) {
  PW_ASSIGN(const std::vector<std::string> names, ListDirectory(directory));
  CompanionFiles files;
  for (const std::string& name : names) {
    if (name.ends_with(".py")) {
      files.code.push_back(name);
    } else if (IsCopied(name)) {
      files.copied.push_back(name);
    } else if (!IsRewritten(name)) {
      files.other.push_back(name);
    }
  }
  return files;
}

Result<std::string> OutputConfig(const Model& model, const ConfigChanges& changes) {
  PW_ASSIGN(const Json config, InputConfig(model));
  // An input's quantized tensors were decoded when none is announced: its own claim is then no
  // longer true.
  const bool drop = changes.quantization_config.has_value() || HasQuantizedTensors(model);
  Json out = Json::Object();
  for (const auto& [key, value] : config.members()) {
    if ((key == "quantization_config" || key == "compression_config") && drop) continue;
    if (changes.dtype && (key == "dtype" || key == "torch_dtype") && value.is_string()) {
      out.Set(key, Json::String(*changes.dtype));
    } else {
      out.Set(key, value);
    }
  }
  if (changes.quantization_config) out.Set("quantization_config", *changes.quantization_config);
  return out.Dump(2) + "\n";
}

std::string TorchDtypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "float32";
    case DType::kF16:
      return "float16";
    case DType::kBF16:
      return "bfloat16";
    default:
      return {};
  }
}

Status CheckOutputPath(const SinkOptions& options) {
  const std::string path = TrimSlashes(options.path);
  if (path.empty()) return Error(ErrorCode::kUsage, "no output was named").Hint("-o OUTPUT");
  if (!PathExists(path)) return OkStatus();
  const auto is_input = [&]() -> Status {
    return Error(ErrorCode::kOutputIsInput, "the output is the input")
        .Hint("give another name with -o")
        .InFile(path);
  };
  if (options.model != nullptr) {
    const Model& model = *options.model;
    if (SameFile(path, model.path)) return is_input();
    if (!model.directory.empty() && SameFile(path, model.directory)) return is_input();
    if (model.source != nullptr) {
      for (const std::string& file : model.source->files()) {
        if (SameFile(path, file) || SameFile(path, ParentOf(file))) return is_input();
      }
    }
  }
  if (!options.force) {
    return Error(ErrorCode::kOutputExists, "the output exists")
        .Hint("replace it with --force")
        .InFile(path);
  }
  return OkStatus();
}

Status CompareListing(const std::vector<OutputTensor>& announced,
                      const std::vector<TensorInfo>& listed, bool zeros_by_words) {
  std::map<std::string_view, const TensorInfo*> by_name;
  for (const TensorInfo& info : listed) by_name[info.name] = &info;
  const auto differs = [](const std::string& what, std::string_view name) -> Status {
    return Error(ErrorCode::kVerifyFailed, "the finished output, opened again, " + what)
        .InTensor(std::string(name));
  };
  for (const OutputTensor& tensor : announced) {
    const auto it = by_name.find(tensor.name);
    if (it == by_name.end()) return differs("does not list it", tensor.name);
    if (it->second->shape != tensor.shape) {
      return differs("lists the shape " + ShapeToString(it->second->shape) + " instead of " +
                         ShapeToString(tensor.shape),
                     tensor.name);
    }
    Encoding expected = tensor.encoding;
    if (zeros_by_words && it->second->encoding.integer.symmetric) expected.integer.symmetric = true;
    if (!SameEncoding(it->second->encoding, expected, it->second->rows(), it->second->cols())) {
      return differs(
          "lists it as " + it->second->encoding.Name() + " instead of " + tensor.encoding.Name(),
          tensor.name);
    }
    by_name.erase(it);
  }
  if (!by_name.empty()) return differs("lists a tensor more", by_name.begin()->first);
  return OkStatus();
}

}  // namespace pennyweight
