#include "formats/safetensors_writer.h"

#include <string_view>
#include <unordered_set>

#include "lib/checked.h"
#include "lib/json.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kDataAlignment = 8;

Status CheckName(const std::string& name) {
  if (name.empty() || name.size() > limits::kTensorNameBytes ||
      name.find('\0') != std::string::npos || name == "__metadata__") {
    return Error(ErrorCode::kInvalidName, "not a name that a safetensors file may hold")
        .InTensor(name);
  }
  return OkStatus();
}

Json Entry(const StoredTensor& tensor, uint64_t begin, uint64_t end) {
  Json shape = Json::Array();
  for (const int64_t d : tensor.shape) shape.Push(Json::Integer(d));
  Json offsets = Json::Array();
  offsets.Push(Json::Unsigned(begin));
  offsets.Push(Json::Unsigned(end));
  Json entry = Json::Object();
  entry.Set("dtype", Json::String(std::string(DTypeName(tensor.dtype))));
  entry.Set("shape", std::move(shape));
  entry.Set("data_offsets", std::move(offsets));
  return entry;
}

}  // namespace

Result<uint64_t> StoredBytes(const StoredTensor& tensor) {
  const auto elements = ElementCount(tensor.shape);
  if (!elements) {
    return Error(ErrorCode::kOverflow, "the shape's elements cannot be counted in 64 bits")
        .InTensor(tensor.name);
  }
  const auto bits =
      CheckedMul(static_cast<uint64_t>(*elements), static_cast<uint64_t>(DTypeBits(tensor.dtype)));
  if (!bits) {
    return Error(ErrorCode::kOverflow, "the tensor's bits cannot be counted in 64 bits")
        .InTensor(tensor.name);
  }
  if (*bits % 8 != 0) {
    return Error(ErrorCode::kInvalidTensor, "its elements do not fill whole bytes")
        .InTensor(tensor.name);
  }
  return *bits / 8;
}

Result<SafetensorsLayout> LayOutSafetensors(const std::vector<StoredTensor>& tensors,
                                            const std::map<std::string, std::string>& metadata) {
  Json meta = Json::Object();
  meta.Set("format", Json::String("pt"));
  for (const auto& [key, value] : metadata) meta.Set(key, Json::String(value));

  // The outer object is put together by hand: a tree with one member per tensor would be searched
  // for every name that is added to it.
  std::string text = "{\"__metadata__\":" + meta.Dump();
  SafetensorsLayout layout;
  std::unordered_set<std::string_view> names;
  uint64_t at = 0;  // from the start of the data
  for (const StoredTensor& tensor : tensors) {
    PW_TRY(CheckName(tensor.name));
    if (!names.insert(tensor.name).second) {
      return Error(ErrorCode::kDuplicateKey, "two tensors of this name").InTensor(tensor.name);
    }
    PW_ASSIGN(const uint64_t bytes, StoredBytes(tensor));
    const auto end = CheckedAdd(at, bytes);
    if (!end) {
      return Error(ErrorCode::kOverflow, "the file's size does not fit 64 bits")
          .InTensor(tensor.name);
    }
    text += ',';
    text += Json::String(tensor.name).Dump();
    text += ':';
    text += Entry(tensor, at, *end).Dump();
    layout.offsets.push_back(at);
    layout.bytes.push_back(bytes);
    at = *end;
  }
  text += "}";
  const auto padded = CheckedAlign(text.size(), kDataAlignment);
  if (!padded || *padded > limits::kSafetensorsHeaderBytes) {
    return Error(ErrorCode::kHeaderTooLarge, "the header would pass the format's 100 MB");
  }
  text.resize(*padded, ' ');

  const uint64_t data = kLengthBytes + *padded;
  const auto file_bytes = CheckedAdd(data, at);
  if (!file_bytes) return Error(ErrorCode::kOverflow, "the file's size does not fit 64 bits");
  for (uint64_t& offset : layout.offsets) offset += data;
  for (uint64_t i = 0; i < kLengthBytes; ++i) {
    layout.head.push_back(static_cast<char>((*padded >> (8 * i)) & 0xff));
  }
  layout.head += text;
  layout.file_bytes = *file_bytes;
  return layout;
}

}  // namespace pennyweight
