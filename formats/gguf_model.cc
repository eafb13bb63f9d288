// GGUF as a model: tensors of known families under Hugging Face's names and in its row order.
#include <fmt/format.h>

#include <string_view>
#include <unordered_set>

#include "formats/fold_file.h"
#include "formats/gguf_metadata.h"
#include "formats/gguf_reader.h"
#include "formats/gguf_rope.h"
#include "formats/gguf_rows.h"
#include "formats/readers.h"
#include "lib/allowance.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

// Where a listed tensor stands.
struct Stored {
  size_t file = 0;
  RowOrder order;
};

struct Listing {
  std::vector<TensorInfo> tensors;
  std::vector<Stored> stored;
};

class GgufSource : public TensorSource {
 public:
  GgufSource(std::vector<GgufFile> files, Listing listing)
      : files_(std::move(files)), listing_(std::move(listing)) {
    for (const GgufFile& file : files_) paths_.push_back(file.file().path());
    const GgufFile& first = files_.front();
    for (const GgufEntry& entry : first.entries()) {
      // For people a record of folds says no more than that it is there.
      metadata_[entry.key] =
          entry.key == kFoldsKey ? fmt::format("[{} bytes]", entry.bytes) : first.Printable(entry);
    }
  }

  const std::vector<TensorInfo>& tensors() const override { return listing_.tensors; }
  std::string_view format() const override { return "gguf"; }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  const std::vector<std::string>& files() const override { return paths_; }

  Status ReadRows(size_t index, int64_t row, int64_t count, EncodedTensor* out) const override {
    const TensorInfo& info = listing_.tensors[index];
    const Stored& stored = listing_.stored[index];
    const ReadFile& file = files_[stored.file].file();
    out->Resize(info.encoding, count, info.cols());
    const auto read = [&](uint64_t offset, void* to, uint64_t bytes) {
      return file.ReadAt(info.offset + offset, to, bytes);  // inside the file, as Open proved
    };
    const uint64_t row_bytes = info.encoding.RowBytes(info.cols()).value_or(0);
    Status status = stored.order.Read(read, row_bytes, row, count, out->data.data());
    if (!status.ok()) {
      return std::move(status).TakeError().InFile(info.file).InTensor(info.name);
    }
    return OkStatus();
  }

 private:
  std::vector<GgufFile> files_;
  Listing listing_;
  std::vector<std::string> paths_;
  std::map<std::string, std::string> metadata_;
};

// The tensor under its stored name, in its stored order.
TensorInfo StoredInfo(const GgufFile& file, const GgufTensor& tensor) {
  TensorInfo info;
  info.name = tensor.name;
  info.stored_name = tensor.name;
  info.encoding = tensor.encoding;
  info.shape = tensor.shape;
  info.bytes = tensor.bytes;
  info.file = file.file().path();
  info.offset = tensor.offset;
  return info;
}

Listing ListAsStored(const std::vector<GgufFile>& files) {
  Listing out;
  for (size_t i = 0; i < files.size(); ++i) {
    for (const GgufTensor& tensor : files[i].tensors()) {
      out.tensors.push_back(StoredInfo(files[i], tensor));
      out.stored.push_back({i, RowOrder()});
    }
  }
  return out;
}

// NVFP4 weights may have a scale for the whole tensor beside them, which a runtime multiplies onto
// the product. The weight without it is not the model's.
Status CheckScale(const std::unordered_set<std::string_view>& stored, const std::string& name) {
  constexpr std::string_view kSuffix = ".scale";
  if (name.size() <= kSuffix.size() || !std::string_view(name).ends_with(kSuffix)) {
    return OkStatus();
  }
  const std::string weight = name.substr(0, name.size() - kSuffix.size()) + ".weight";
  if (!stored.contains(weight)) return OkStatus();
  return Error(ErrorCode::kUnsupported, fmt::format("it scales all of \"{}\"", weight));
}

// A listed matrix and what its listing holds beside it, roughly.
constexpr uint64_t kListedBytes = 512;

// Builds the canonical listing. Errors: kConfigInvalid, kUnsupported, kDuplicateKey, kLimit when
// the family does not fit the tensors.
class FamilyLister {
 public:
  FamilyLister(const std::vector<GgufFile>& files, const Family& family, const ModelConfig& config)
      : family_(family), config_(config), allowance_(AllBytes(files)) {
    for (const GgufFile& file : files) {
      for (const GgufTensor& tensor : file.tensors()) stored_names_.insert(tensor.name);
    }
  }

  Status Add(TensorInfo info, Stored stored) {
    const TensorPlace place = PlaceOfGguf(family_, info.stored_name);
    if (place.rule == nullptr) {
      PW_TRY(CheckScale(stored_names_, info.stored_name));
      return Push(std::move(info), std::move(stored));
    }
    if (place.layer >= config_.layers) {
      return Error(ErrorCode::kConfigInvalid,
                   fmt::format("block_count is {}, so this layer is one too many", config_.layers));
    }
    if (IsExpertRule(*place.rule)) return AddStack(place, info, stored.file);
    info.name = NameFor(place.rule->hf, place.layer);
    PW_ASSIGN(stored.order,
              RowOrder::Make(place.rule->row_map, config_, info.encoding, info.shape));
    return Push(std::move(info), std::move(stored));
  }

  Listing Take() && { return std::move(out_); }

 private:
  static uint64_t AllBytes(const std::vector<GgufFile>& files) {
    uint64_t bytes = 0;
    for (const GgufFile& file : files) bytes += file.file().size();
    return bytes;
  }

  // The experts of a layer, [experts, rows, cols]: a matrix each.
  Status AddStack(const TensorPlace& place, const TensorInfo& stack, size_t file) {
    const Shape& shape = stack.shape;
    const bool fits = shape.size() == 3 && shape[0] == config_.experts;
    if (!fits) {
      return Error(ErrorCode::kConfigInvalid,
                   fmt::format("its shape is {}, the configuration has {} experts",
                               ShapeToString(shape), config_.experts))
          .Hint("the key expert_count and this tensor do not belong to one model");
    }
    TensorInfo one = stack;
    one.shape = {shape[1], shape[2]};
    one.bytes = stack.bytes / static_cast<uint64_t>(config_.experts);  // whole rows, as Open proved
    for (int64_t e = 0; e < config_.experts; ++e) {
      one.name = NameFor(place.rule->hf, place.layer, e);
      one.offset = stack.offset + static_cast<uint64_t>(e) * one.bytes;
      PW_TRY(Push(one, {file, RowOrder()}));
    }
    return OkStatus();
  }

  Status Push(TensorInfo info, Stored stored) {
    if (out_.tensors.size() >= limits::kTensors || !allowance_.Take(kListedBytes)) {
      return Allowance::Exceeded("the list of tensors");
    }
    if (!names_.insert(info.name).second) {
      return Error(ErrorCode::kDuplicateKey, fmt::format("two tensors would be \"{}\"", info.name));
    }
    out_.tensors.push_back(std::move(info));
    out_.stored.push_back(std::move(stored));
    return OkStatus();
  }

  const Family& family_;
  const ModelConfig& config_;
  Allowance allowance_;
  std::unordered_set<std::string_view> stored_names_;
  std::unordered_set<std::string> names_;
  Listing out_;
};

// The files' tensors in canonical form. Errors: those of FamilyLister, which name the tensor.
Result<Listing> ListAsFamily(const std::vector<GgufFile>& files, const Family& family,
                             const ModelConfig& config) {
  Listing all = ListAsStored(files);
  FamilyLister lister(files, family, config);
  for (size_t i = 0; i < all.tensors.size(); ++i) {
    const TensorInfo& info = all.tensors[i];
    // A form of the rope scaling, which the configuration holds: no weight.
    if (info.stored_name == kRopeFreqsName) continue;
    Status status = lister.Add(info, std::move(all.stored[i]));
    if (!status.ok()) {
      return std::move(status)
          .TakeError()
          .InFile(info.file)
          .InTensor(info.stored_name)
          .At(info.offset);
    }
  }
  return std::move(lister).Take();
}

}  // namespace

Result<Model> OpenGguf(const std::string& path) {
  PW_ASSIGN(std::vector<GgufFile> files, OpenGgufFiles(path));
  const std::string first = files.front().file().path();
  Model model;
  model.path = path;
  ModelConfig config;
  Status status = ReadGgufConfig(files, &config);
  Listing listing;
  if (status.ok()) {
    const Family* family = FindFamily(config.family);
    auto canonical = ListAsFamily(files, *family, config);
    if (canonical.ok()) {
      listing = std::move(canonical).value();
      model.config = std::move(config);
      model.family = family;
    } else {
      status = std::move(canonical).TakeError();
    }
  }
  if (!status.ok()) {
    // Without a configuration neither names nor row order can be canonical.
    listing = ListAsStored(files);
    if (status.error().code == ErrorCode::kUnknownFamily) model.config = std::move(config);
    model.config_error = std::move(status).TakeError().InFile(first);
  }
  const GgufEntry* entry = files.front().Find(kFoldsKey);
  std::optional<std::string> folds;
  if (entry != nullptr) folds = files.front().AsString(*entry).value_or("");
  auto vocabulary = ReadGgufVocabulary(files.front());
  if (vocabulary.ok()) {
    model.vocabulary = std::move(vocabulary).value();
  } else {
    model.vocabulary_error = std::move(vocabulary).TakeError().InFile(first);
  }
  model.source = std::make_unique<GgufSource>(std::move(files), std::move(listing));
  if (folds) ReadFolds(*folds, first, &model);
  return model;
}

Result<Model> OpenStoredGguf(const std::string& path) {
  PW_ASSIGN(std::vector<GgufFile> files, OpenGgufFiles(path));
  Model model;
  model.path = path;
  Listing listing = ListAsStored(files);
  model.source = std::make_unique<GgufSource>(std::move(files), std::move(listing));
  return model;
}

}  // namespace pennyweight
