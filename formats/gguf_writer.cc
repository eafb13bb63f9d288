#include "formats/gguf_writer.h"

#include <fmt/format.h>

#include <algorithm>

#include "formats/gguf_text.h"
#include "lib/checked.h"

namespace pennyweight {
namespace {

template <class T>
void Append(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));  // little-endian hosts only
}

void AppendString(std::string* out, std::string_view text) {
  Append<uint64_t>(out, text.size());
  out->append(text);
}

}  // namespace

void GgufHeader::StartEntry(std::string_view key, GgufType type) {
  AppendString(&entries_, key);
  Append(&entries_, static_cast<uint32_t>(type));
  ++entry_count_;
  keys_.emplace(key, true);
}

void GgufHeader::StartArray(std::string_view key, GgufType element, uint64_t count) {
  StartEntry(key, GgufType::kArray);
  Append(&entries_, static_cast<uint32_t>(element));
  Append(&entries_, count);
}

void GgufHeader::AddU16(std::string_view key, uint16_t value) {
  StartEntry(key, GgufType::kU16);
  Append(&entries_, value);
}

void GgufHeader::AddU32(std::string_view key, uint32_t value) {
  StartEntry(key, GgufType::kU32);
  Append(&entries_, value);
}

void GgufHeader::AddI32(std::string_view key, int32_t value) {
  StartEntry(key, GgufType::kI32);
  Append(&entries_, value);
}

void GgufHeader::AddF32(std::string_view key, float value) {
  StartEntry(key, GgufType::kF32);
  Append(&entries_, value);
}

void GgufHeader::AddBool(std::string_view key, bool value) {
  StartEntry(key, GgufType::kBool);
  Append<uint8_t>(&entries_, value ? 1 : 0);
}

void GgufHeader::AddString(std::string_view key, std::string_view value) {
  StartEntry(key, GgufType::kString);
  AppendString(&entries_, value);
}

void GgufHeader::AddStrings(std::string_view key, const std::vector<std::string_view>& values) {
  StartArray(key, GgufType::kString, values.size());
  for (const std::string_view value : values) AppendString(&entries_, value);
}

void GgufHeader::AddF32s(std::string_view key, const std::vector<float>& values) {
  StartArray(key, GgufType::kF32, values.size());
  for (const float value : values) Append(&entries_, value);
}

void GgufHeader::AddI32s(std::string_view key, const std::vector<int32_t>& values) {
  StartArray(key, GgufType::kI32, values.size());
  for (const int32_t value : values) Append(&entries_, value);
}

void GgufHeader::AddRoom(std::string_view key, uint64_t bytes) {
  AddString(key, std::string(bytes, ' '));
  room_ = entries_.size() - bytes;
  room_bytes_ = bytes;
}

bool GgufHeader::FillRoom(std::string_view text) {
  if (text.size() > room_bytes_) return false;
  std::fill_n(std::copy(text.begin(), text.end(), bytes_.begin() + static_cast<int64_t>(room_)),
              room_bytes_ - text.size(), ' ');
  return true;
}

void GgufHeader::AddCopy(const GgufFile& file, const GgufEntry& entry) {
  if (entry.type == GgufType::kArray) {
    StartArray(entry.key, entry.element, entry.count);
  } else {
    StartEntry(entry.key, entry.type);
  }
  entries_.append(file.Payload(entry));
}

bool GgufHeader::Has(std::string_view key) const { return keys_.count(std::string(key)) > 0; }

Status GgufHeader::AddTensor(std::string_view name, const Encoding& encoding, const Shape& shape) {
  if (name.empty() || name.size() > kGgufTensorNameBytes || !IsPlainText(name)) {
    return Error(ErrorCode::kInvalidName,
                 fmt::format("GGUF takes names of 1 to {} bytes", kGgufTensorNameBytes));
  }
  if (!GgmlIdOf(encoding) || IsGgmlScratchType(encoding)) {
    return Error(ErrorCode::kUnsupported, fmt::format("GGUF does not store {}", encoding.Name()))
        .Hint("choose a GGUF type, as `--type q4_k_m`");
  }
  if (shape.size() > kGgufRank) {
    return Error(ErrorCode::kUnsupported, fmt::format("GGUF holds up to {} dimensions, this has {}",
                                                      kGgufRank, shape.size()));
  }
  if (!names_.emplace(name, true).second) {
    return Error(ErrorCode::kDuplicateKey, "two tensors of the output have this name");
  }
  GgufTensor tensor{std::string(name), encoding, shape, data_bytes_, 0};
  const std::optional<int64_t> elements = ElementCount(shape);
  if (!elements) return Error(ErrorCode::kOverflow, "the shape does not fit 64 bits");
  const int64_t cols = shape.empty() ? 1 : shape.back();
  const std::optional<uint64_t> row_bytes = encoding.RowBytes(cols);
  if (*elements == 0 || !row_bytes) {
    return Error(ErrorCode::kInvalidTensor, fmt::format("the shape {} cannot be stored as {}",
                                                        ShapeToString(shape), encoding.Name()));
  }
  const auto bytes = CheckedMul(*row_bytes, static_cast<uint64_t>(*elements / cols));
  const auto end = bytes ? CheckedAdd(data_bytes_, *bytes) : std::nullopt;
  const auto padded = end ? CheckedAlign(*end, alignment_) : std::nullopt;
  if (!padded) return Error(ErrorCode::kOverflow, "the file's size does not fit 64 bits");
  tensor.bytes = *bytes;
  data_bytes_ = *padded;
  tensors_.push_back(std::move(tensor));
  return OkStatus();
}

Status GgufHeader::Finish() {
  bytes_ = "GGUF";
  Append<uint32_t>(&bytes_, 3);
  Append<uint64_t>(&bytes_, tensors_.size());
  Append<uint64_t>(&bytes_, entry_count_);
  room_ += bytes_.size();
  bytes_ += entries_;
  entries_ = std::string();
  for (const GgufTensor& tensor : tensors_) {
    AppendString(&bytes_, tensor.name);
    Append(&bytes_, static_cast<uint32_t>(tensor.shape.size()));
    for (auto dim = tensor.shape.rbegin(); dim != tensor.shape.rend(); ++dim) Append(&bytes_, *dim);
    Append(&bytes_, *GgmlIdOf(tensor.encoding));
    Append(&bytes_, tensor.offset);
  }
  const uint64_t start = (bytes_.size() + alignment_ - 1) / alignment_ * alignment_;
  bytes_.resize(start);
  const auto total = CheckedAdd(start, data_bytes_);
  if (!total) return Error(ErrorCode::kOverflow, "the file's size does not fit 64 bits");
  for (GgufTensor& tensor : tensors_) tensor.offset += start;
  file_bytes_ = *total;
  return OkStatus();
}

}  // namespace pennyweight
