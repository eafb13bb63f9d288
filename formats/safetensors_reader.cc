#include "formats/safetensors_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <optional>
#include <tuple>
#include <utility>

#include "formats/detect.h"
#include "formats/quantized_checkpoint.h"
#include "formats/readers.h"
#include "formats/shard_index.h"
#include "lib/checked.h"
#include "lib/json.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are used as they are stored");

constexpr uint64_t kLengthBytes = 8;
constexpr std::string_view kMetadataKey = "__metadata__";

// One tensor's entry, still with offsets from the start of the data.
struct Entry {
  TensorInfo info;
  uint64_t begin = 0;
  uint64_t end = 0;
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

Result<std::map<std::string, std::string>> ParseMetadata(const Json& json) {
  if (!json.is_object()) {
    return Error(ErrorCode::kMetadataNotString, "__metadata__ must be an object of strings");
  }
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : json.members()) {
    if (!value.is_string()) {
      return Error(ErrorCode::kMetadataNotString,
                   fmt::format("__metadata__ key \"{:.100}\" must be a string", key));
    }
    if (key.find('\0') != std::string::npos || value.str().find('\0') != std::string::npos) {
      return Error(ErrorCode::kInvalidName, "__metadata__ contains a NUL");
    }
    metadata.emplace(key, value.str());
  }
  return metadata;
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

// Bytes that `dims` elements of `dtype` take. Also fills `shape`.
Result<uint64_t> StoredBytes(const std::vector<uint64_t>& dims, DType dtype, Shape* shape) {
  uint64_t elements = 1;
  for (const uint64_t dim : dims) {
    const std::optional<uint64_t> product = CheckedMul(elements, dim);
    if (!product || *product > INT64_MAX || dim > INT64_MAX) {
      return Error(ErrorCode::kOverflow,
                   fmt::format("the shape [{}] has too many elements", fmt::join(dims, ", ")));
    }
    elements = *product;
    shape->push_back(static_cast<int64_t>(dim));
  }
  const std::optional<uint64_t> bits =
      CheckedMul(elements, static_cast<uint64_t>(DTypeBits(dtype)));
  if (!bits) {
    return Error(ErrorCode::kOverflow, fmt::format("the size of {} {} does not fit 64 bits",
                                                   ShapeToString(*shape), DTypeName(dtype)));
  }
  if (*bits % 8 != 0) {
    return Error(ErrorCode::kMisaligned,
                 fmt::format("{} {} ends inside a byte", ShapeToString(*shape), DTypeName(dtype)));
  }
  return *bits / 8;
}

Result<Entry> ParseEntry(const std::string& name, const Json& json) {
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
  Entry entry;
  entry.begin = offsets[0];
  entry.end = offsets[1];
  PW_ASSIGN(entry.info.bytes, StoredBytes(dims, *dtype, &entry.info.shape));
  if (entry.end < entry.begin) {
    return Error(
        ErrorCode::kInvalidOffset,
        fmt::format("data_offsets [{}, {}] end before they begin", entry.begin, entry.end));
  }
  if (entry.end - entry.begin != entry.info.bytes) {
    return Error(
        ErrorCode::kInvalidTensor,
        fmt::format("{} {} needs {} bytes, data_offsets give {}", ShapeToString(entry.info.shape),
                    dtype_name->str(), entry.info.bytes, entry.end - entry.begin));
  }
  entry.info.name = name;
  entry.info.stored_name = name;
  entry.info.encoding = Encoding::Plain(*dtype);
  return entry;
}

// The ranges, in order, must cover [0, data_bytes) without hole or overlap.
Status CheckRanges(const std::vector<Entry>& entries, uint64_t data_begin, uint64_t file_size) {
  const uint64_t data_bytes = file_size - data_begin;
  uint64_t expected = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != expected) {
      const char* what = entry.begin > expected ? "leaves a hole behind" : "overlaps";
      return Error(ErrorCode::kInvalidOffset,
                   fmt::format("the tensor's data begin at {} and {} the data before, which end at "
                               "{} (counted from the end of the header)",
                               entry.begin, what, expected))
          .InTensor(entry.info.name);
    }
    expected = entry.end;
  }
  if (expected == data_bytes) return OkStatus();
  if (expected < data_bytes) {
    return Error(ErrorCode::kIncompleteBuffer,
                 fmt::format("{} bytes follow the last tensor", data_bytes - expected))
        .At(data_begin + expected);
  }
  const auto cut = std::find_if(entries.begin(), entries.end(),
                                [&](const Entry& entry) { return entry.end > data_bytes; });
  return Error(ErrorCode::kTruncated,
               fmt::format("the file ends after {} bytes, {} bytes short of its last tensor",
                           file_size, expected - data_bytes))
      .Hint("download or copy the file again")
      .InTensor(cut->info.name)
      .At(file_size);
}

}  // namespace

Result<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json, uint64_t file_size) {
  const size_t first = json.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos || json[first] != '{') {
    return Error(ErrorCode::kInvalidHeader, "the header must be a JSON object").At(kLengthBytes);
  }
  Result<Json> root = Json::Parse(json);
  if (!root.ok()) {
    Error error = std::move(root).TakeError();
    if (error.offset >= 0) error.offset += static_cast<int64_t>(kLengthBytes);
    return error;
  }
  SafetensorsHeader header;
  const std::vector<Json::Member>& members = root->members();
  if (members.size() > limits::kTensors + 1) {
    return Error(ErrorCode::kLimit, fmt::format("the header lists {} tensors; at most {} are taken",
                                                members.size(), limits::kTensors));
  }
  std::vector<Entry> entries;
  entries.reserve(members.size());
  for (const auto& [name, value] : members) {
    if (name == kMetadataKey) {
      PW_ASSIGN(header.metadata, ParseMetadata(value));
      continue;
    }
    Result<Entry> entry = ParseEntry(name, value);
    if (!entry.ok()) return std::move(entry).TakeError().InTensor(name);
    entries.push_back(std::move(entry).value());
  }
  // Names break ties between empty tensors, so that the order does not depend on the writer.
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.info.name) < std::tie(b.begin, b.end, b.info.name);
  });
  const uint64_t data_begin = kLengthBytes + json.size();
  PW_TRY(CheckRanges(entries, data_begin, file_size));
  header.tensors.reserve(entries.size());
  for (Entry& entry : entries) {
    entry.info.offset = data_begin + entry.begin;
    header.tensors.push_back(std::move(entry.info));
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
  return model;
}

}  // namespace pennyweight
