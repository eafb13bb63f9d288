// MakeSafetensorsSink: plain tensors into one safetensors file or a Hugging Face folder.
#include <cstddef>
#include <optional>
#include <utility>

#include "formats/hf_folder.h"
#include "formats/readers.h"
#include "formats/shard_writer.h"
#include "formats/sinks.h"

namespace pennyweight {
namespace {

bool NamesOneFile(const std::string& path) {
  constexpr std::string_view kSuffix = ".safetensors";
  return path.size() > kSuffix.size() && path.substr(path.size() - kSuffix.size()) == kSuffix;
}

Status CheckPlain(const OutputTensor& tensor) {
  if (tensor.encoding.kind == Encoding::Kind::kPlain) return OkStatus();
  const bool block = tensor.encoding.kind == Encoding::Kind::kBlock;
  return Error(ErrorCode::kUnsupported,
               "plain safetensors files do not hold " + tensor.encoding.Name() + " values")
      .Hint(block ? "--to gguf" : "--to compressed-tensors")
      .InTensor(tensor.name);
}

// The one float dtype of all matrices, if there is one: what config.json then has to say.
std::optional<std::string> CommonDtype(const std::vector<OutputTensor>& tensors) {
  std::optional<DType> common;
  for (const OutputTensor& tensor : tensors) {
    if (tensor.shape.size() < 2 || !IsFloatDType(tensor.encoding.dtype)) continue;
    if (common && *common != tensor.encoding.dtype) return std::nullopt;
    common = tensor.encoding.dtype;
  }
  if (!common) return std::nullopt;
  return TorchDtypeName(*common);
}

class SafetensorsSink : public TensorSink {
 public:
  explicit SafetensorsSink(const SinkOptions& options) : options_(options) {}

  Status Begin(const std::vector<OutputTensor>& tensors) override {
    std::vector<TensorPart> parts;
    for (size_t i = 0; i < tensors.size(); ++i) {
      PW_TRY(CheckPlain(tensors[i]));
      parts.push_back({{tensors[i].name, tensors[i].encoding.dtype, tensors[i].shape}, i});
    }
    PW_TRY(CheckOutputPath(options_));
    if (NamesOneFile(options_.path)) {
      PW_ASSIGN(file_,
                ShardWriter::OneFile(options_.path, options_.force, parts, options_.provenance,
                                     options_.journal, options_.measure));
      shards_ = file_.get();
    } else {
      PW_ASSIGN(folder_, HfFolder::Create(options_, parts));
      shards_ = &folder_->shards();
    }
    tensors_ = tensors;
    return OkStatus();
  }

  Status Write(size_t index, int64_t row, const EncodedTensor& tile) override {
    PW_TRY(CheckTile(tensors_[index], row, tile));
    if (tile.rows == 0) return OkStatus();
    const uint64_t row_bytes = tile.data.size() / static_cast<uint64_t>(tile.rows);
    return shards_->Write(index, static_cast<uint64_t>(row) * row_bytes, tile.data.data(),
                          tile.data.size());
  }

  Status Seal() override {
    if (folder_ != nullptr) {
      ConfigChanges changes;
      changes.dtype = CommonDtype(tensors_);
      return folder_->Seal(tensors_, changes);
    }
    PW_TRY(file_->Seal());
    if (options_.measure) return OkStatus();
    PW_ASSIGN(const Model reopened, OpenSafetensors(file_->TempPath()));
    return CompareListing(tensors_, reopened.source->tensors());
  }

  Status Commit() override { return folder_ != nullptr ? folder_->Commit() : file_->Commit(); }

  void Keep() override {
    if (folder_ != nullptr) folder_->Keep();
    if (file_ != nullptr) file_->Keep();
  }

  std::string OutputName(size_t index) const override { return tensors_[index].name; }
  uint64_t OutputBytes(size_t index) const override { return shards_->PartBytes(index); }
  uint64_t TotalBytes() const override {
    return folder_ != nullptr ? folder_->TotalBytes() : file_->TotalBytes();
  }

 private:
  SinkOptions options_;
  std::vector<OutputTensor> tensors_;
  std::unique_ptr<ShardWriter> file_;  // one of these two
  std::unique_ptr<HfFolder> folder_;
  ShardWriter* shards_ = nullptr;
};

}  // namespace

Result<std::unique_ptr<TensorSink>> MakeSafetensorsSink(const SinkOptions& options) {
  PW_TRY(CheckOutputPath(options));
  if (!NamesOneFile(options.path) && !options.as_stored) {
    if (options.model == nullptr) {
      return Error(ErrorCode::kConfigMissing, "a folder needs a model's configuration")
          .Hint("give an output that ends in .safetensors");
    }
    const Result<std::string> config = OutputConfig(*options.model, {});
    const bool bare = !config.ok() && config.error().code == ErrorCode::kConfigMissing;
    // Refused now rather than after the work.
    if (!config.ok() && !(bare && options.weights_only)) return Error(config.error());
  }
  return std::unique_ptr<TensorSink>(std::make_unique<SafetensorsSink>(options));
}

}  // namespace pennyweight
