#include "formats/packed_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace pennyweight {
namespace {

class PackedSource : public TensorSource {
 public:
  // A tensor as it is listed: put together by `packed`, or tensor `stored` of the parts.
  struct Entry {
    std::unique_ptr<PackedTensor> packed;
    size_t stored = 0;
  };

  PackedSource(std::string format, std::unique_ptr<TensorSource> parts,
               std::vector<TensorInfo> tensors, std::vector<Entry> entries)
      : format_(std::move(format)),
        parts_(std::move(parts)),
        tensors_(std::move(tensors)),
        entries_(std::move(entries)) {}

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  std::string_view format() const override { return format_; }
  const std::map<std::string, std::string>& metadata() const override { return parts_->metadata(); }
  const std::vector<std::string>& files() const override { return parts_->files(); }

  Status ReadRows(size_t index, int64_t row, int64_t count, EncodedTensor* out) const override {
    const Entry& entry = entries_[index];
    if (entry.packed == nullptr) return parts_->ReadRows(entry.stored, row, count, out);
    const TensorInfo& info = tensors_[index];
    out->encoding = info.encoding;
    out->rows = count;
    out->cols = info.cols();
    if (count == 0) {
      *out = EncodedTensor::Allocate(info.encoding, 0, info.cols());
      return OkStatus();
    }
    return entry.packed->Read(*parts_, row, count, out);
  }

 private:
  std::string format_;
  std::unique_ptr<TensorSource> parts_;
  std::vector<TensorInfo> tensors_;
  std::vector<Entry> entries_;
};

}  // namespace

std::optional<std::string> WithoutSuffix(std::string_view name, std::string_view suffix) {
  if (name.size() <= suffix.size() || !name.ends_with(suffix)) return std::nullopt;
  return std::string(name.substr(0, name.size() - suffix.size()));
}

PartsIndex::PartsIndex(const TensorSource& source) : source_(source) {
  const auto& list = source.tensors();
  names_.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) names_.emplace(list[i].name, static_cast<int64_t>(i));
}

int64_t PartsIndex::Find(const std::string& name) const {
  const auto found = names_.find(name);
  return found == names_.end() ? kNone : found->second;
}

Result<int64_t> PartsIndex::Require(const std::string& name, int64_t owner) const {
  const int64_t found = Find(name);
  if (found != kNone) return found;
  return Error(ErrorCode::kTensorMissing, fmt::format("{} needs it", Info(owner).name))
      .Hint("download the checkpoint again, with all of its files")
      .InFile(Info(owner).file)
      .InTensor(name);
}

Error PartsIndex::Wrong(int64_t part, std::string rule) const {
  const TensorInfo& info = Info(part);
  return Error(ErrorCode::kInvalidTensor, std::move(rule))
      .Hint("download the checkpoint again; if it stays so, its writer made it wrong")
      .InFile(info.file)
      .InTensor(info.name)
      .At(info.offset);
}

Status PartsIndex::CheckForm(int64_t part, DType dtype, size_t rank) const {
  const TensorInfo& info = Info(part);
  const bool whole =
      std::all_of(info.shape.begin(), info.shape.end(), [](int64_t d) { return d > 0; });
  if (info.encoding == Encoding::Plain(dtype) && info.shape.size() == rank && whole) {
    return OkStatus();
  }
  return Wrong(part, fmt::format("must be {} with {} dimensions, not {} {}", DTypeName(dtype), rank,
                                 DTypeName(info.encoding.dtype), ShapeToString(info.shape)));
}

Status PartsIndex::CheckFloat(int64_t part, size_t rank) const {
  const DType dtype = Info(part).encoding.dtype;
  if (IsFloatDType(dtype)) return CheckForm(part, dtype, rank);
  return Wrong(part, fmt::format("must be F16, BF16 or F32, not {}", DTypeName(dtype)));
}

Status PartsIndex::CheckShape(int64_t part, const Shape& shape, const std::string& what) const {
  if (Info(part).shape == shape) return OkStatus();
  return Wrong(part, fmt::format("is {}, not {}: {}", ShapeToString(Info(part).shape),
                                 ShapeToString(shape), what));
}

Result<std::vector<uint8_t>> PartsIndex::ReadAll(int64_t part) const {
  EncodedTensor all;
  PW_TRY(source_.ReadRows(static_cast<size_t>(part), 0, Info(part).rows(), &all));
  return std::move(all.data);
}

Status Packing::Add(const PartsIndex& index, TensorInfo info, int64_t anchor,
                    const std::vector<int64_t>& parts, std::unique_ptr<PackedTensor> packed) {
  const TensorInfo& stored = index.Info(anchor);
  info.stored_name = stored.name;
  info.file = stored.file;
  info.offset = stored.offset;
  info.bytes = 0;
  const int64_t same = index.Find(info.name);
  if (same != PartsIndex::kNone && std::find(parts.begin(), parts.end(), same) == parts.end()) {
    return Error(ErrorCode::kDuplicateKey, "the weight is there twice, plain and packed")
        .InFile(index.Info(same).file)
        .InTensor(info.name);
  }
  for (const int64_t part : parts) {
    if (part == PartsIndex::kNone) continue;
    if (!dropped_.emplace(part, true).second) {
      return Error(ErrorCode::kDuplicateKey, "it would be a part of two weights")
          .InFile(index.Info(part).file)
          .InTensor(index.Info(part).name);
    }
    info.bytes += index.Info(part).bytes;
  }
  weights_.emplace(anchor, Weight{std::move(info), std::move(packed)});
  return OkStatus();
}

std::unique_ptr<TensorSource> Packing::Wrap(std::string format,
                                            std::unique_ptr<TensorSource>* parts) {
  std::vector<TensorInfo> tensors;
  std::vector<PackedSource::Entry> entries;
  const auto& stored = (*parts)->tensors();
  for (size_t i = 0; i < stored.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const auto weight = weights_.find(at);
    if (weight != weights_.end()) {
      tensors.push_back(std::move(weight->second.info));
      entries.push_back({std::move(weight->second.packed), 0});
    } else if (!dropped_.contains(at)) {
      tensors.push_back(stored[i]);
      entries.push_back({nullptr, i});
    }
  }
  return std::make_unique<PackedSource>(std::move(format), std::move(*parts), std::move(tensors),
                                        std::move(entries));
}

}  // namespace pennyweight
