#include "formats/safetensors_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>

#include "formats/detect.h"
#include "formats/fold_file.h"
#include "formats/quantized_checkpoint.h"
#include "formats/readers.h"
#include "formats/shard_index.h"
#include "lib/allowance.h"
#include "lib/checked.h"
#include "lib/json.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are used as they are stored");

constexpr uint64_t kLengthBytes = 8;
constexpr std::string_view kMetadataKey = "__metadata__";

// One tensor's entry, still with offsets from the start of the data. Small, as a header may list a
// million of them before the first contradiction.
struct Entry {
  uint64_t begin = 0;
  uint64_t end = 0;
  uint32_t name = 0;  // begin in Entries::names
  uint32_t dims = 0;  // begin in Entries::dims
  uint16_t name_bytes = 0;
  uint8_t rank = 0;
  DType dtype = DType::kF32;
};

// What a TensorInfo costs beside what its name and shape hold: its path, and the finding of names.
constexpr uint64_t kInfoBytes = sizeof(TensorInfo) + 256;

struct Entries {
  std::vector<Entry> list;
  std::string names;
  std::vector<int64_t> dims;

  std::string_view Name(const Entry& entry) const {
    return std::string_view(names).substr(entry.name, entry.name_bytes);
  }
  Shape ShapeOf(const Entry& entry) const {
    const auto begin = dims.begin() + entry.dims;
    return Shape(begin, begin + entry.rank);
  }
};

Status CheckName(std::string_view name, std::string_view what) {
  if (name.empty()) return Error(ErrorCode::kInvalidName, fmt::format("{} is empty", what));
  if (name.size() > limits::kTensorNameBytes) {
    return Error(ErrorCode::kInvalidName, fmt::format("{} has {} bytes; at most {} are taken", what,
                                                      name.size(), limits::kTensorNameBytes));
  }
  // Readers that use C strings would see another name.
  if (name.find('\0') != std::string_view::npos) {
    return Error(ErrorCode::kInvalidName, fmt::format("{} contains a NUL", what));
  }
  return OkStatus();
}

Status ParseMetadata(const Json& json, std::map<std::string, std::string>* metadata) {
  if (!json.is_object()) {
    return Error(ErrorCode::kMetadataNotString, "__metadata__ must be an object of strings");
  }
  if (json.members().size() > limits::kMetadataKeys) {
    return Error(ErrorCode::kLimit, fmt::format("__metadata__ has {} keys; at most {} are taken",
                                                json.members().size(), limits::kMetadataKeys));
  }
  for (const auto& [key, value] : json.members()) {
    if (!value.is_string()) {
      return Error(ErrorCode::kMetadataNotString,
                   fmt::format("__metadata__ key \"{:.100}\" must be a string", key));
    }
    if (key.find('\0') != std::string::npos || value.str().find('\0') != std::string::npos) {
      return Error(ErrorCode::kInvalidName, "__metadata__ contains a NUL");
    }
    metadata->emplace(key, value.str());
  }
  return OkStatus();
}

// An array of unsigned integers under `key`.
Result<std::vector<uint64_t>> UnsignedList(const Json& entry, const char* key, size_t max_items) {
  const Json* list = entry.Find(key);
  if (list == nullptr || !list->is_array()) {
    return Error(ErrorCode::kInvalidHeader, fmt::format("\"{}\" must be an array", key));
  }
  if (list->items().size() > max_items) {
    return Error(ErrorCode::kLimit, fmt::format("\"{}\" has {} items; at most {} are taken", key,
                                                list->items().size(), max_items));
  }
  std::vector<uint64_t> numbers;
  for (const Json& item : list->items()) {
    const std::optional<uint64_t> number = item.AsUnsigned();
    if (!number) {
      return Error(
          ErrorCode::kInvalidHeader,
          fmt::format("\"{}\" must hold integers of 0 or more, not {:.40}", key, item.Dump()));
    }
    numbers.push_back(*number);
  }
  return numbers;
}

// Bytes that a tensor of `dims` and `dtype` takes.
Result<uint64_t> StoredBytes(const std::vector<uint64_t>& dims, DType dtype) {
  uint64_t elements = 1;
  for (const uint64_t dim : dims) {
    const std::optional<uint64_t> product = CheckedMul(elements, dim);
    if (!product || *product > INT64_MAX || dim > INT64_MAX) {
      return Error(ErrorCode::kOverflow,
                   fmt::format("the shape [{}] has too many elements", fmt::join(dims, ", ")));
    }
    elements = *product;
  }
  const std::optional<uint64_t> bits =
      CheckedMul(elements, static_cast<uint64_t>(DTypeBits(dtype)));
  if (!bits) {
    return Error(ErrorCode::kOverflow, fmt::format("the size of [{}] {} does not fit 64 bits",
                                                   fmt::join(dims, ", "), DTypeName(dtype)));
  }
  if (*bits % 8 != 0) {
    return Error(ErrorCode::kMisaligned, fmt::format("[{}] {} ends inside a byte",
                                                     fmt::join(dims, ", "), DTypeName(dtype)));
  }
  return *bits / 8;
}

Status ParseEntry(std::string_view name, const Json& json, Entries* entries) {
  PW_TRY(CheckName(name, "the name of a tensor"));
  if (!json.is_object()) {
    return Error(ErrorCode::kInvalidHeader, "a tensor's entry must be an object");
  }
  const Json* dtype_name = json.Find("dtype");
  if (dtype_name == nullptr || !dtype_name->is_string()) {
    return Error(ErrorCode::kInvalidHeader, "\"dtype\" must be a string");
  }
  const std::optional<DType> dtype = DTypeFromName(dtype_name->str());
  if (!dtype) {
    return Error(
        ErrorCode::kUnknownDtype,
        fmt::format("dtype \"{:.40}\" is not known (from a newer format?)", dtype_name->str()));
  }
  PW_ASSIGN(const std::vector<uint64_t> dims,
            UnsignedList(json, "shape", static_cast<size_t>(limits::kTensorRank)));
  PW_ASSIGN(const std::vector<uint64_t> offsets, UnsignedList(json, "data_offsets", 16));
  if (offsets.size() != 2) {
    return Error(
        ErrorCode::kInvalidHeader,
        fmt::format("\"data_offsets\" must be [begin, end], not {} numbers", offsets.size()));
  }
  PW_ASSIGN(const uint64_t bytes, StoredBytes(dims, *dtype));
  if (offsets[1] < offsets[0]) {
    return Error(
        ErrorCode::kInvalidOffset,
        fmt::format("data_offsets [{}, {}] end before they begin", offsets[0], offsets[1]));
  }
  if (offsets[1] - offsets[0] != bytes) {
    return Error(ErrorCode::kInvalidTensor,
                 fmt::format("[{}] {} needs {} bytes, data_offsets give {}", fmt::join(dims, ", "),
                             dtype_name->str(), bytes, offsets[1] - offsets[0]));
  }
  // All of these are bounded by the header's own size, or by the caps above.
  entries->list.push_back({.begin = offsets[0],
                           .end = offsets[1],
                           .name = static_cast<uint32_t>(entries->names.size()),
                           .dims = static_cast<uint32_t>(entries->dims.size()),
                           .name_bytes = static_cast<uint16_t>(name.size()),
                           .rank = static_cast<uint8_t>(dims.size()),
                           .dtype = *dtype});
  entries->names += name;
  for (const uint64_t dim : dims) entries->dims.push_back(static_cast<int64_t>(dim));
  return OkStatus();
}

// Sorted by offset, then name, so that the order of empty tensors does not depend on the writer.
// The ranges must cover [0, data_bytes) without hole or overlap.
Status CheckRanges(const Entries& entries, uint64_t data_begin, uint64_t file_size) {
  const uint64_t data_bytes = file_size - data_begin;
  uint64_t expected = 0;
  for (const Entry& entry : entries.list) {
    if (entry.begin != expected) {
      const char* what = entry.begin > expected ? "leaves a hole behind" : "overlaps";
      return Error(ErrorCode::kInvalidOffset,
                   fmt::format("the tensor's data begin at {} and {} the data before, which end at "
                               "{} (counted from the end of the header)",
                               entry.begin, what, expected))
          .InTensor(std::string(entries.Name(entry)));
    }
    expected = entry.end;
  }
  if (expected == data_bytes) return OkStatus();
  if (expected < data_bytes) {
    return Error(ErrorCode::kIncompleteBuffer,
                 fmt::format("{} bytes follow the last tensor", data_bytes - expected))
        .At(data_begin + expected);
  }
  const auto cut = std::find_if(entries.list.begin(), entries.list.end(),
                                [&](const Entry& entry) { return entry.end > data_bytes; });
  return Error(ErrorCode::kTruncated,
               fmt::format("the file ends after {} bytes, {} bytes short of its last tensor",
                           file_size, expected - data_bytes))
      .Hint("download or copy the file again")
      .InTensor(std::string(entries.Name(*cut)))
      .At(file_size);
}

// No name may stand twice, however it was spelled.
Status CheckNames(const Entries& entries) {
  std::vector<uint32_t> order(entries.list.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto name = [&](uint32_t i) { return entries.Name(entries.list[i]); };
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return name(a) < name(b); });
  for (size_t i = 1; i < order.size(); ++i) {
    if (name(order[i]) != name(order[i - 1])) continue;
    return Error(ErrorCode::kDuplicateKey, "the header lists the tensor twice")
        .InTensor(std::string(name(order[i])));
  }
  return OkStatus();
}

// Metadata and entries as they stand in the text.
Status ParseMembers(std::string_view json, Entries* entries, SafetensorsHeader* header) {
  bool has_metadata = false;
  return Json::ParseMembers(json, "", [&](const std::string& name, const Json& value) -> Status {
    if (name == kMetadataKey) {
      if (std::exchange(has_metadata, true)) {
        return Error(ErrorCode::kDuplicateKey, "the header has __metadata__ twice");
      }
      return ParseMetadata(value, &header->metadata);
    }
    if (entries->list.size() >= limits::kTensors) {
      return Error(ErrorCode::kLimit,
                   fmt::format("the header lists more than {} tensors", limits::kTensors));
    }
    Status status = ParseEntry(name, value, entries);
    if (!status.ok()) return std::move(status).TakeError().InTensor(name);
    return OkStatus();
  });
}

}  // namespace

Result<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json, uint64_t file_size) {
  const size_t first = json.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos || json[first] != '{') {
    return Error(ErrorCode::kInvalidHeader, "the header must be a JSON object").At(kLengthBytes);
  }
  SafetensorsHeader header;
  Entries entries;
  Status status = ParseMembers(json, &entries, &header);
  if (!status.ok()) {
    Error error = std::move(status).TakeError();
    if (error.offset >= 0) error.offset += static_cast<int64_t>(kLengthBytes);
    return error;
  }
  PW_TRY(CheckNames(entries));
  std::sort(entries.list.begin(), entries.list.end(), [&](const Entry& a, const Entry& b) {
    return std::tuple(a.begin, a.end, entries.Name(a)) <
           std::tuple(b.begin, b.end, entries.Name(b));
  });
  const uint64_t data_begin = kLengthBytes + json.size();
  PW_TRY(CheckRanges(entries, data_begin, file_size));
  // Empty tensors need no bytes of data, so their number is bounded by this alone.
  if (!Allowance(file_size).Take(entries.list.size() * kInfoBytes + 2 * entries.names.size() +
                                 entries.dims.size() * sizeof(int64_t))) {
    return Allowance::Exceeded("the list of tensors");
  }
  header.tensors.reserve(entries.list.size());
  for (const Entry& entry : entries.list) {
    TensorInfo& info = header.tensors.emplace_back();
    info.name = entries.Name(entry);
    info.stored_name = info.name;
    info.encoding = Encoding::Plain(entry.dtype);
    info.shape = entries.ShapeOf(entry);
    info.bytes = entry.end - entry.begin;
    info.offset = data_begin + entry.begin;
  }
  if (first > 0) {
    header.notes.push_back("the header begins with white space, which the format does not allow");
  }
  return header;
}

Result<SafetensorsHeader> ReadSafetensorsHeader(const ReadFile& file) {
  if (file.size() < kLengthBytes) {
    return Error(ErrorCode::kHeaderTooSmall,
                 fmt::format("a safetensors file has at least {} bytes, this one {}", kLengthBytes,
                             file.size()))
        .InFile(file.path());
  }
  uint64_t length = 0;
  PW_TRY(file.ReadAt(0, &length, kLengthBytes));
  if (length > limits::kSafetensorsHeaderBytes) {
    return Error(ErrorCode::kHeaderTooLarge,
                 fmt::format("the header announces {} bytes; the format allows {}", length,
                             limits::kSafetensorsHeaderBytes))
        .InFile(file.path())
        .At(0);
  }
  if (length > file.size() - kLengthBytes) {
    return Error(ErrorCode::kTruncated,
                 fmt::format("the header announces {} bytes, {} are left in the file", length,
                             file.size() - kLengthBytes))
        .Hint("download or copy the file again")
        .InFile(file.path())
        .At(file.size());
  }
  std::string json(length, '\0');
  PW_TRY(file.ReadAt(kLengthBytes, json.data(), length));
  Result<SafetensorsHeader> header = ParseSafetensorsHeader(json, file.size());
  if (!header.ok()) return std::move(header).TakeError().InFile(file.path());
  return header;
}

Result<std::unique_ptr<SafetensorsSource>> SafetensorsSource::Open(
    const std::vector<std::string>& paths) {
  std::unique_ptr<SafetensorsSource> source(new SafetensorsSource);
  for (const std::string& path : paths) PW_TRY(source->Add(path));
  PW_TRY(RequireUniqueNames(source->tensors_));
  return source;
}

Status SafetensorsSource::Add(const std::string& path) {
  PW_ASSIGN(ReadFile file, ReadFile::Open(path));
  if (file.size() >= kLengthBytes) {
    // Git-lfs pointers, HTML pages and other containers are named for what they are.
    PW_ASSIGN(const FileFormat format, DetectFormat(path));
    if (format != FileFormat::kSafetensors) {
      return Error(ErrorCode::kUnknownFormat,
                   fmt::format("this is a {} file, not safetensors", FormatName(format)))
          .Hint("give the file itself as the input")
          .InFile(path);
    }
  }
  PW_ASSIGN(SafetensorsHeader header, ReadSafetensorsHeader(file));
  for (TensorInfo& info : header.tensors) {
    info.file = path;
    tensors_.push_back(std::move(info));
    file_of_.push_back(files_.size());
  }
  AddMetadata(path, std::move(header.metadata));
  for (const std::string& note : header.notes) notes_.push_back(BaseName(path) + ": " + note);
  files_.push_back(std::move(file));
  paths_.push_back(path);
  return OkStatus();
}

void SafetensorsSource::AddMetadata(const std::string& path,
                                    std::map<std::string, std::string> metadata) {
  for (auto& [key, value] : metadata) {
    const auto [place, fresh] = metadata_.emplace(key, value);
    if (!fresh && place->second != value) metadata_[BaseName(path) + ": " + key] = value;
  }
}

Status SafetensorsSource::ReadRows(size_t index, int64_t row, int64_t count,
                                   EncodedTensor* out) const {
  const TensorInfo& info = tensors_[index];
  const ReadFile& file = files_[file_of_[index]];
  // Both products fit: the whole tensor's size was checked, and the range is inside it.
  const uint64_t row_bits =
      static_cast<uint64_t>(info.cols()) * static_cast<uint64_t>(DTypeBits(info.encoding.dtype));
  if (row_bits % 8 != 0) {
    return Error(ErrorCode::kUnsupported,
                 fmt::format("rows of {} {} values end inside a byte and cannot be read one by one",
                             info.cols(), DTypeName(info.encoding.dtype)))
        .InFile(info.file)
        .InTensor(info.name);
  }
  const uint64_t row_bytes = row_bits / 8;
  out->encoding = info.encoding;
  out->rows = count;
  out->cols = info.cols();
  out->codes.clear();
  out->scales.clear();
  out->zeros.clear();
  out->data.resize(static_cast<uint64_t>(count) * row_bytes);
  if (out->data.empty()) return OkStatus();
  const uint64_t offset = info.offset + static_cast<uint64_t>(row) * row_bytes;
  Status status = file.ReadAt(offset, out->data.data(), out->data.size());
  if (!status.ok()) return std::move(status).TakeError().InFile(info.file).InTensor(info.name);
  return OkStatus();
}

Status SafetensorsSource::ReadColumns(size_t index, int64_t row, int64_t count, int64_t col,
                                      int64_t cols, EncodedTensor* out) const {
  const TensorInfo& info = tensors_[index];
  if (col == 0 && cols == info.cols()) return ReadRows(index, row, count, out);
  const ReadFile& file = files_[file_of_[index]];
  const int64_t bytes = DTypeBits(info.encoding.dtype) / 8;
  const auto row_bytes = static_cast<uint64_t>(info.cols() * bytes);
  const auto part_bytes = static_cast<uint64_t>(cols * bytes);
  out->encoding = info.encoding;
  out->rows = count;
  out->cols = cols;
  out->data.resize(static_cast<uint64_t>(count) * part_bytes);
  uint64_t offset =
      info.offset + static_cast<uint64_t>(row) * row_bytes + static_cast<uint64_t>(col * bytes);
  uint8_t* to = out->data.data();
  for (int64_t r = 0; r < count; ++r, offset += row_bytes, to += part_bytes) {
    Status status = file.ReadAt(offset, to, part_bytes);
    if (!status.ok()) return std::move(status).TakeError().InFile(info.file).InTensor(info.name);
  }
  return OkStatus();
}

Result<Model> OpenSafetensors(const std::string& path) {
  PW_ASSIGN(std::unique_ptr<TensorSource> parts, SafetensorsSource::Open({path}));
  Model model;
  model.path = path;
  PW_ASSIGN(model.source, GroupQuantizedParts(nullptr, "", &parts, &model.notes));
  ReadFoldsOf(&model);
  return model;
}

}  // namespace pennyweight
