#include "formats/hf_folder.h"

#include <string_view>
#include <utility>

#include "formats/hf_tokenizer_writer.h"
#include "formats/readers.h"
#include "lib/limits.h"

namespace pennyweight {

Result<std::unique_ptr<HfFolder>> HfFolder::Create(const SinkOptions& options,
                                                   const std::vector<TensorPart>& parts) {
  PW_TRY(CheckOutputPath(options));
  std::unique_ptr<HfFolder> folder(new HfFolder());
  folder->model_ = options.model;
  folder->weights_only_ = options.weights_only;
  folder->as_stored_ = options.as_stored;
  folder->folds_ = options.folds;
  folder->measure_ = options.measure;
  if (options.measure) {
    PW_ASSIGN(folder->shards_, ShardWriter::InDirectory("", options.shard_bytes, parts,
                                                        options.provenance, nullptr, true));
    return folder;
  }
  Journal* const journal = options.journal;
  if (journal == nullptr) {
    PW_ASSIGN(folder->directory_, AtomicDirectory::Create(options.path, options.force));
  } else {
    PW_ASSIGN(folder->directory_,
              AtomicDirectory::CreateAt(options.path, BesideOutput(options.path, "partial"),
                                        options.force, journal->resumed()));
  }
  PW_ASSIGN(folder->shards_,
            ShardWriter::InDirectory(folder->directory_->temp_path(), options.shard_bytes, parts,
                                     options.provenance, journal));
  return folder;
}

void HfFolder::Keep() {
  shards_->Keep();
  if (directory_ != nullptr) directory_->Keep();
}

Status HfFolder::Commit() {
  if (directory_ != nullptr) return directory_->Commit();
  return Error(ErrorCode::kUsage, "only sizes were asked for: there is nothing to commit");
}

Status HfFolder::AddFile(const std::string& name, const std::string& contents) {
  if (measure_) {
    total_bytes_ += contents.size();
    return OkStatus();
  }
  PW_TRY(directory_->WriteFile(name, contents));
  const std::string path = JoinPath(directory_->temp_path(), name);
  PW_ASSIGN(const std::string read, ReadWholeFile(path, limits::kJsonFileBytes));
  if (read != contents) {
    return Error(ErrorCode::kVerifyFailed, "what was read back differs from what was written")
        .InFile(path);
  }
  total_bytes_ += contents.size();
  return OkStatus();
}

Result<std::string> HfFolder::ConfigText(const ConfigChanges& changes) const {
  if (as_stored_) {
    const std::string path = JoinPath(model_->directory, "config.json");
    if (model_->directory.empty() || !PathExists(path)) return std::string();
    return ReadWholeFile(path, limits::kJsonFileBytes);
  }
  Result<std::string> config = OutputConfig(*model_, changes);
  if (!config.ok() && weights_only_ && config.error().code == ErrorCode::kConfigMissing) {
    return std::string();
  }
  return config;
}

Status HfFolder::Seal(const std::vector<OutputTensor>& announced, const ConfigChanges& changes) {
  PW_ASSIGN(const std::string config, ConfigText(changes));
  PW_TRY(shards_->Seal());
  if (!measure_) PW_TRY(shards_->Commit());
  total_bytes_ = shards_->TotalBytes();
  const std::string index = shards_->Index();
  if (!index.empty()) PW_TRY(AddFile("model.safetensors.index.json", index));
  if (!model_->directory.empty()) {
    PW_ASSIGN(const CompanionFiles files, ListCompanionFiles(model_->directory));
    for (const std::string& name : files.copied) {
      PW_ASSIGN(const std::string contents,
                ReadWholeFile(JoinPath(model_->directory, name), limits::kJsonFileBytes));
      PW_TRY(AddFile(name, contents));
    }
    const std::string folds = JoinPath(model_->directory, std::string(kFoldsFile));
    if (as_stored_ && PathExists(folds)) {
      PW_ASSIGN(const std::string contents, ReadWholeFile(folds, limits::kJsonFileBytes));
      PW_TRY(AddFile(std::string(kFoldsFile), contents));
    }
  } else if (model_->vocabulary) {
    // What cannot be written is said by the command, before the work.
    const auto files = TokenizerFiles(*model_->vocabulary);
    if (files.ok()) {
      for (const auto& [name, contents] : *files) PW_TRY(AddFile(name, contents));
    }
  }
  if (folds_ != nullptr && !folds_->empty()) {
    PW_TRY(AddFile(std::string(kFoldsFile), FoldRecordToJson(*folds_) + "\n"));
  }
  if (!config.empty()) PW_TRY(AddFile("config.json", config));
  if (measure_) return OkStatus();
  PW_ASSIGN(const Model reopened, as_stored_ ? OpenStored(directory_->temp_path())
                                             : OpenHuggingFace(directory_->temp_path()));
  // Readers of these tell zero points that are all in the middle by their words, and list none.
  const std::string_view format = reopened.source->format();
  const bool zeros_by_words = format == "gptq" || format == "awq";
  return CompareListing(announced, reopened.source->tensors(), zeros_by_words);
}

}  // namespace pennyweight
