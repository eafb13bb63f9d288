#include "cmd/open_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "formats/detect.h"
#include "formats/readers.h"
#include "lib/file.h"
#include "lib/fold_record.h"
#include "lib/folded_source.h"
#include "lib/limits.h"
#include "quant/codec.h"
#include "quant/transposed_source.h"

namespace pennyweight {

Result<Model> OpenModel(const std::string& path) {
  if (IsDirectory(path)) return OpenHuggingFace(path);
  PW_ASSIGN(const FileFormat format, DetectFormat(path));
  switch (format) {
    case FileFormat::kGguf:
      return OpenGguf(path);
    case FileFormat::kPytorch:
      return OpenPytorch(path);
    case FileFormat::kSafetensors:
      break;
  }
  return OpenSafetensors(path);
}

Result<Model> OpenModelByKey(const std::string& path, const Arguments& arguments) {
  const auto key = arguments.Get("--key");
  if (!key) return OpenModel(path);
  const bool folder = IsDirectory(path);
  if (!folder) {
    PW_ASSIGN(const FileFormat format, DetectFormat(path));
    if (format == FileFormat::kPytorch) return OpenPytorch(path, *key);
  }
  return Error(ErrorCode::kUsage,
               fmt::format("--key chooses in a PyTorch checkpoint, and this is a {}",
                           folder ? "folder" : "file of another format"))
      .Hint("leave out --key, or give the checkpoint file itself")
      .InFile(path);
}

void UseCanonical(Model* model) {
  int64_t count = 0;
  for (const TensorInfo& info : model->source->tensors()) count += info.transposed;
  if (count == 0) return;
  model->source = MakeCanonical(std::move(model->source), DType::kBF16);
  model->notes.push_back(
      fmt::format("{} tensors of experts are decoded to bf16 and transposed: "
                  "that is what their names stand for",
                  count));
}

Status UndoFolds(Model* model) {
  if (model->folds_error) return Error(*model->folds_error);
  if (model->folds.empty()) return OkStatus();
  PW_ASSIGN(const auto folds, FoldsOf(model->folds, *model->source));
  auto source = std::make_unique<FoldedSource>(std::move(model->source), ReadFloatRows);
  for (const auto& [index, fold] : folds) source->SetFold(index, Inverse(fold));
  model->source = std::move(source);
  model->notes.push_back(
      fmt::format("{}: {} recorded folds in {} tensors are undone before weights are compared",
                  model->path, model->folds.folds.size(), folds.size()));
  return OkStatus();
}

DType ModelDType(const Model& model) {
  if (model.config && IsFloatDType(model.config->dtype)) return model.config->dtype;
  std::map<DType, int64_t> elements;
  for (const TensorInfo& t : model.source->tensors()) {
    if (t.encoding.kind == Encoding::Kind::kPlain && IsFloatDType(t.encoding.dtype)) {
      elements[t.encoding.dtype] += t.elements();
    }
  }
  const auto most = std::max_element(elements.begin(), elements.end(),
                                     [](auto& a, auto& b) { return a.second < b.second; });
  return most == elements.end() ? DType::kF16 : most->first;
}

Status RequireRunnable(const Model& model) {
  if (model.config_error) return Error(*model.config_error);
  if (!model.config || model.family == nullptr) {
    return Error(ErrorCode::kUnknownFamily, "these are tensors without a known model configuration")
        .Hint("give a Hugging Face folder or a GGUF file of a known family (llama)")
        .InFile(model.path);
  }
  if (model.vocabulary_error) return Error(*model.vocabulary_error);
  if (!model.vocabulary) {
    return Error(ErrorCode::kTokenizer, "the model has no tokenizer files")
        .Hint("put tokenizer.model or tokenizer.json beside config.json")
        .InFile(model.path);
  }
  return OkStatus();
}

Result<std::string> ReadText(const std::string& path) {
  return ReadWholeFile(path, limits::kTextBytes);
}

Result<int64_t> ContextLength(const Arguments& arguments, const ModelConfig& config) {
  PW_ASSIGN(const auto wanted, arguments.Integer("--context", 2, 1 << 24));
  const int64_t limit = config.context_length > 0 ? config.LongestContext() : int64_t{1} << 24;
  if (!wanted) return std::min<int64_t>(512, limit);
  if (*wanted > limit) {
    return Error(ErrorCode::kUsage,
                 fmt::format("--context {} is above the model's limit of {}{}", *wanted, limit,
                             limit < config.context_length ? " (its sliding_window)" : ""))
        .Hint(fmt::format("use --context {} or less", limit));
  }
  return *wanted;
}

std::optional<std::string> Separator(const Arguments& arguments) {
  const auto text = arguments.Get("--separator");
  if (!text) return std::nullopt;
  std::string out;
  for (size_t i = 0; i < text->size(); ++i) {
    const char next = i + 1 < text->size() ? (*text)[i + 1] : '\0';
    if ((*text)[i] == '\\' && (next == 'n' || next == 't' || next == '\\')) {
      out += next == 'n' ? '\n' : next == 't' ? '\t' : '\\';
      ++i;
    } else {
      out += (*text)[i];
    }
  }
  return out;
}

}  // namespace pennyweight
