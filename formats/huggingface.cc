// OpenHuggingFace of formats/readers.h: a folder's weights, configuration and vocabulary.
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "formats/fold_file.h"
#include "formats/hf_config.h"
#include "formats/hf_tokenizer.h"
#include "formats/json_fields.h"
#include "formats/pytorch_reader.h"
#include "formats/quantized_checkpoint.h"
#include "formats/readers.h"
#include "formats/safetensors_reader.h"
#include "formats/shard_index.h"
#include "lib/file.h"

namespace pennyweight {
namespace {

// "model" for "model", "./model/" and, inside of it, ".".
std::string FolderName(const std::string& directory) {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::canonical(directory, error);
  return error ? BaseName(directory) : path.filename().string();
}

// The weights as they are stored.
Result<std::unique_ptr<TensorSource>> OpenWeights(const std::string& directory,
                                                  std::optional<Error>* danger) {
  PW_ASSIGN(const WeightFiles files, FindWeightFiles(directory));
  std::unique_ptr<TensorSource> source;
  if (files.pytorch) {
    PW_ASSIGN(auto checkpoints, PytorchSource::Open(files.paths));
    *danger = checkpoints->danger();
    source = std::move(checkpoints);
  } else {
    PW_ASSIGN(source, SafetensorsSource::Open(files.paths));
  }
  PW_TRY(CheckAgainstIndex(files, source->tensors()));
  return source;
}

// What the family is to be run with cannot be: the config stays for people, the family goes. A note
// says so where parts are only copied, which needs no config.
void Refuse(Error error, Model* model) {
  model->family = nullptr;
  model->notes.push_back(error.ToString());
  if (!model->config_error) model->config_error = std::move(error);
}

// Groups the parts of quantized tensors where the layout is known; else says what it is.
// Only parts that contradict each other or the config are errors.
Status ApplyQuantization(const Json& json, const std::string& file, Model* model) {
  Result<std::unique_ptr<TensorSource>> source =
      GroupQuantizedParts(&json, file, &model->source, &model->notes);
  if (source.ok()) {
    model->source = std::move(source).value();
    return OkStatus();
  }
  const ErrorCode code = source.error().code;
  if (code == ErrorCode::kUnsupported || code == ErrorCode::kConfigMissing ||
      code == ErrorCode::kConfigInvalid) {
    Refuse(std::move(source).TakeError(), model);
    return OkStatus();
  }
  return std::move(source).TakeError();
}

// A config that does not name the weights' dtype: that of the first matrix of floats.
void DTypeFromTensors(Model* model) {
  for (const TensorInfo& info : model->source->tensors()) {
    const Encoding& encoding = info.encoding;
    const bool integer = encoding.kind == Encoding::Kind::kInteger;
    if (!integer && encoding.kind != Encoding::Kind::kPlain) continue;
    const DType dtype = integer ? encoding.integer.scale_dtype : encoding.dtype;
    if (info.shape.size() < 2 || !IsFloatDType(dtype)) continue;
    model->config->dtype = dtype;
    return;
  }
}

Status ReadConfig(Model* model) {
  const std::string path = JoinPath(model->directory, "config.json");
  if (!PathExists(path)) {
    model->config_error = Error(ErrorCode::kConfigMissing, "there is no config.json")
                              .Hint("copy the model's config.json into its folder")
                              .InFile(path);
    return OkStatus();
  }
  Result<Json> json = ReadConfigObject(path);
  if (!json.ok()) {
    model->config_error = std::move(json).TakeError();
    return OkStatus();
  }
  HfConfig parsed = ParseHfConfig(*json, path, FolderName(model->directory));
  model->config = std::move(parsed.config);
  model->config_error = std::move(parsed.error);
  model->family = parsed.family;
  PW_TRY(ApplyQuantization(*json, path, model));
  if (model->config && !parsed.has_dtype) DTypeFromTensors(model);
  return OkStatus();
}

}  // namespace

Result<Model> OpenHuggingFace(const std::string& directory) {
  if (!PathExists(directory)) {
    return Error(ErrorCode::kNotFound, "there is no such folder").InFile(directory);
  }
  Model model;
  model.path = directory;
  model.directory = directory;
  PW_ASSIGN(model.source, OpenWeights(directory, &model.danger));
  PW_TRY(ReadConfig(&model));
  ReadFoldsOf(&model);
  Result<Vocabulary> vocabulary =
      ReadHfTokenizer(directory, model.config ? &*model.config : nullptr);
  if (vocabulary.ok()) {
    model.vocabulary = std::move(vocabulary).value();
  } else {
    model.vocabulary_error = std::move(vocabulary).TakeError();
  }
  return model;
}

}  // namespace pennyweight
