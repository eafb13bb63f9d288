#include "formats/parts_sink.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "formats/hf_folder.h"
#include "formats/shard_writer.h"

namespace pennyweight {
namespace {

constexpr std::string_view kWeight = ".weight";

bool IsPlain(const OutputTensor& tensor) { return tensor.encoding.kind == Encoding::Kind::kPlain; }

Role RoleOf(const Model& model, const OutputTensor& tensor) {
  if (model.family != nullptr) {
    const TensorPlace place = PlaceOfHf(*model.family, tensor.name);
    if (place.rule != nullptr) return place.rule->role;
  }
  return GuessRole(tensor.name, tensor.shape.size());
}

// The places of a tensor's parts in the list of all.
struct Range {
  size_t begin = 0;
  size_t end = 0;
};

class PartsSink : public TensorSink {
 public:
  PartsSink(const SinkOptions& options, const PartsLayout& layout)
      : options_(options), layout_(layout) {}

  Status Begin(const std::vector<OutputTensor>& tensors) override {
    std::vector<TensorPart> parts;
    for (size_t i = 0; i < tensors.size(); ++i) {
      PW_TRY(layout_.check(*options_.model, tensors[i]));
      AddParts(tensors[i], i, &parts);
    }
    if (!std::all_of(tensors.begin(), tensors.end(), IsPlain)) {
      PW_ASSIGN(config_.emplace(), layout_.config(*options_.model, tensors));
    }
    PW_ASSIGN(folder_, HfFolder::Create(options_, parts));
    tensors_ = tensors;
    for (size_t i = 0; layout_.constants != nullptr && i < tensors_.size(); ++i) {
      if (IsPlain(tensors_[i])) continue;
      PW_TRY(layout_.constants(*options_.model, tensors_[i], PutFor(i)));
    }
    return OkStatus();
  }

  Status Write(size_t index, int64_t row, const EncodedTensor& tile) override {
    PW_TRY(CheckTile(tensors_[index], row, tile));
    if (tile.rows == 0) return OkStatus();
    const PutPart put = PutFor(index);
    if (IsPlain(tensors_[index])) return PutRows(row, tile, put);
    Status status = layout_.write(tensors_[index], row, tile, put);
    if (status.ok()) return status;
    Error error = std::move(status).TakeError();
    return error.tensor.empty() ? std::move(error).InTensor(tensors_[index].name)
                                : std::move(error);
  }

  Status Seal() override {
    ConfigChanges changes;
    changes.quantization_config = config_;
    return folder_->Seal(tensors_, changes);
  }

  Status Commit() override { return folder_->Commit(); }
  void Keep() override {
    if (folder_ != nullptr) folder_->Keep();
  }

  std::string OutputName(size_t index) const override { return names_[index]; }
  uint64_t OutputBytes(size_t index) const override {
    uint64_t bytes = 0;
    for (size_t part = ranges_[index].begin; part < ranges_[index].end; ++part) {
      bytes += folder_->shards().PartBytes(part);
    }
    return bytes;
  }
  uint64_t TotalBytes() const override { return folder_->TotalBytes(); }

 private:
  void AddParts(const OutputTensor& tensor, size_t owner, std::vector<TensorPart>* parts) {
    Range range{parts->size(), 0};
    if (IsPlain(tensor)) {
      parts->push_back({{tensor.name, tensor.encoding.dtype, tensor.shape}, owner});
    } else {
      for (StoredTensor& part : layout_.parts(*options_.model, tensor)) {
        parts->push_back({std::move(part), owner});
      }
    }
    range.end = parts->size();
    names_.push_back((*parts)[range.begin].stored.name);
    ranges_.push_back(range);
  }

  PutPart PutFor(size_t index) { return PutPart(&folder_->shards(), ranges_[index].begin); }

  static Status PutRows(int64_t row, const EncodedTensor& tile, const PutPart& put) {
    const uint64_t row_bytes = tile.data.size() / static_cast<uint64_t>(tile.rows);
    return put(0, static_cast<uint64_t>(row) * row_bytes, tile.data.data(), tile.data.size());
  }

  SinkOptions options_;
  PartsLayout layout_;
  std::vector<OutputTensor> tensors_;
  std::vector<Range> ranges_;       // by tensor
  std::vector<std::string> names_;  // of each tensor's first part
  std::optional<Json> config_;
  std::unique_ptr<HfFolder> folder_;
};

}  // namespace

Result<std::unique_ptr<TensorSink>> MakePartsSink(const SinkOptions& options,
                                                  const PartsLayout& layout) {
  PW_TRY(CheckOutputPath(options));
  if (options.model == nullptr) {
    return Error(ErrorCode::kConfigMissing, "a folder needs a model's configuration");
  }
  // Refused now rather than after the work.
  PW_TRY(OutputConfig(*options.model, {}));
  return std::unique_ptr<TensorSink>(std::make_unique<PartsSink>(options, layout));
}

std::string ModuleOf(std::string_view name) {
  if (name.size() > kWeight.size() && name.ends_with(kWeight)) name.remove_suffix(kWeight.size());
  return std::string(name);
}

bool IsLinearWeight(const Model& model, const OutputTensor& tensor) {
  const Role role = RoleOf(model, tensor);
  return tensor.shape.size() == 2 && tensor.name.size() > kWeight.size() &&
         tensor.name.ends_with(kWeight) && role != Role::kEmbedding && role != Role::kNorm &&
         role != Role::kBias;
}

bool IsHead(const Model& model, const OutputTensor& tensor) {
  return RoleOf(model, tensor) == Role::kHead;
}

std::vector<std::string> PlainLinears(const Model& model,
                                      const std::vector<OutputTensor>& tensors) {
  std::vector<std::string> modules;
  const std::string head =
      ModuleOf(model.family != nullptr ? model.family->head : std::string_view("lm_head.weight"));
  bool head_seen = false;
  for (const OutputTensor& tensor : tensors) {
    const std::string module = ModuleOf(tensor.name);
    if (module == head) head_seen = true;
    if (IsPlain(tensor) && IsLinearWeight(model, tensor)) modules.push_back(module);
  }
  if (!head_seen && !head.empty()) modules.push_back(head);
  return modules;
}

Status PutBlockScales(int64_t row, const EncodedTensor& tile, int64_t block_rows, size_t part,
                      const PutPart& put) {
  const auto bytes = static_cast<int64_t>(tile.scales.size()) / tile.rows;
  const uint8_t* scales = tile.scales.data();
  for (int64_t r = 1; r < tile.rows; ++r) {
    if (block_rows != 0 && (row + r) % block_rows == 0) continue;
    if (std::memcmp(scales + r * bytes, scales + (r - 1) * bytes, static_cast<size_t>(bytes)) !=
        0) {
      return Error(ErrorCode::kInvalidTensor, "rows of one block have different scales");
    }
  }
  if (block_rows == 0) {
    return row == 0 ? put(part, 0, scales, static_cast<uint64_t>(bytes)) : OkStatus();
  }
  if (block_rows == 1)
    return put(part, static_cast<uint64_t>(row * bytes), scales, tile.scales.size());
  for (int64_t r = 0; r < tile.rows; ++r) {
    if ((row + r) % block_rows != 0) continue;
    PW_TRY(put(part, static_cast<uint64_t>((row + r) / block_rows * bytes), scales + r * bytes,
               static_cast<uint64_t>(bytes)));
  }
  return OkStatus();
}

}  // namespace pennyweight
