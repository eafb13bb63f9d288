#include "formats/gguf_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_set>

#include "formats/gguf_text.h"
#include "lib/allowance.h"
#include "lib/checked.h"
#include "lib/limits.h"

namespace pennyweight {

static_assert(std::endian::native == std::endian::little, "GGUF is read without swapping");

namespace {

// Shortest encodings, for bounding counts by what is left of the file.
constexpr uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 4 + 8;
constexpr uint64_t kFirstRead = 64 << 10;
// What is held for a key and for a tensor: here, and in the lists of the model.
constexpr uint64_t kEntryCharge = 512;
constexpr uint64_t kTensorCharge = 640;
constexpr uint64_t kNameCopies = 6;
constexpr uint64_t kPrintedCopies =
    8;  // a byte that is no text prints as four, in a growing string
constexpr uint64_t kPrintedElements = 16;
constexpr size_t kNotes = 32;

// The start of a file, read as far as the parser has come. Positions are file offsets.
class HeaderCursor {
 public:
  explicit HeaderCursor(const ReadFile& file) : file_(file) {}

  uint64_t pos() const { return pos_; }
  uint64_t remaining() const { return file_.size() - pos_; }
  std::vector<uint8_t> TakeBuffer() {
    buffer_.resize(pos_);
    buffer_.shrink_to_fit();
    return std::move(buffer_);
  }

  // Makes [pos, pos + bytes) available. Errors: kTruncated, kLimit, kIo.
  Status Need(uint64_t bytes, const char* what) {
    if (bytes > remaining()) {
      return Error(ErrorCode::kTruncated, fmt::format("{} needs {} bytes, {} are left in the file",
                                                      what, bytes, remaining()))
          .At(pos_);
    }
    const uint64_t end = pos_ + bytes;  // at most the file's size
    if (end > limits::kGgufHeaderBytes) {
      return Error(ErrorCode::kLimit,
                   fmt::format("the header is longer than {} bytes", limits::kGgufHeaderBytes))
          .At(pos_);
    }
    if (end <= buffer_.size()) return OkStatus();
    const uint64_t have = buffer_.size();
    const uint64_t want = std::min(file_.size(), std::max({end, have * 2, kFirstRead}));
    buffer_.resize(want);
    return file_.ReadAt(have, buffer_.data() + have, want - have);
  }

  // Passes over `bytes`; returns where they began.
  Result<uint64_t> Skip(uint64_t bytes, const char* what) {
    PW_TRY(Need(bytes, what));
    const uint64_t begin = pos_;
    pos_ += bytes;
    return begin;
  }

  template <class T>
  Result<T> Get(const char* what) {
    PW_ASSIGN(const uint64_t begin, Skip(sizeof(T), what));
    T value;
    std::memcpy(&value, buffer_.data() + begin, sizeof(T));
    return value;
  }

  // A string of at most `max_bytes`; the view lives until the next call.
  Result<std::string_view> GetString(uint64_t max_bytes, const char* what) {
    const uint64_t at = pos_;
    PW_ASSIGN(const uint64_t length, Get<uint64_t>(what));
    if (length > remaining()) {
      return Error(ErrorCode::kTruncated,
                   fmt::format("{} says it is {} bytes long, {} are left in the file", what, length,
                               remaining()))
          .At(at);
    }
    if (length > max_bytes) {
      return Error(ErrorCode::kLimit,
                   fmt::format("{} is {} bytes long, the limit is {}", what, length, max_bytes))
          .At(at);
    }
    PW_ASSIGN(const uint64_t begin, Skip(length, what));
    return std::string_view(reinterpret_cast<const char*>(buffer_.data()) + begin, length);
  }

  const uint8_t* At(uint64_t offset) const { return buffer_.data() + offset; }

 private:
  const ReadFile& file_;
  std::vector<uint8_t> buffer_;
  uint64_t pos_ = 0;
};

// A count from the header, shown to be backed by the bytes that are left.
Status CheckCount(const HeaderCursor& cursor, uint64_t at, uint64_t count, uint64_t min_bytes,
                  uint64_t cap, const char* what) {
  if (count > cursor.remaining() / min_bytes) {
    return Error(ErrorCode::kTruncated,
                 fmt::format("{} {} do not fit the {} bytes that are left in the file", count, what,
                             cursor.remaining()))
        .At(at);
  }
  if (count > cap) {
    return Error(ErrorCode::kLimit, fmt::format("{} {}, the limit is {}", count, what, cap)).At(at);
  }
  return OkStatus();
}

Result<GgufType> TypeFromId(uint32_t id, uint64_t at, std::string_view key) {
  if (id < kGgufTypeCount) return static_cast<GgufType>(id);
  return Error(ErrorCode::kInvalidHeader,
               fmt::format("key \"{}\" has the value type {}; types end at 12", key, id))
      .At(at);
}

}  // namespace

// Fills a GgufFile in the order of its bytes. One use.
class GgufParser {
 public:
  explicit GgufParser(GgufFile* out)
      : out_(*out), cursor_(out->file_), allowance_(out->file_.size()) {}

  Status Parse() {
    PW_TRY(ParseStart());
    for (uint64_t i = 0; i < key_count_; ++i) PW_TRY(ParseEntry());
    PW_TRY(FindAlignment());
    for (uint64_t i = 0; i < tensor_count_; ++i) PW_TRY(ParseTensor());
    const uint64_t header_end = cursor_.pos();
    out_.header_ = cursor_.TakeBuffer();
    return PlaceTensors(header_end);
  }

 private:
  Status ParseStart() {
    const uint64_t size = out_.file_.size();
    if (size == 0) return Error(ErrorCode::kTruncated, "the file is empty").At(0);
    PW_TRY(cursor_.Need(std::min<uint64_t>(size, 4), "the magic"));
    if (std::memcmp(cursor_.At(0), "GGUF", std::min<uint64_t>(size, 4)) != 0) {
      return Error(ErrorCode::kInvalidHeader, "the file does not begin with \"GGUF\"").At(0);
    }
    if (size < 24) {
      return Error(ErrorCode::kTruncated,
                   fmt::format("a GGUF header has at least 24 bytes, the file has {}", size))
          .At(size);
    }
    PW_TRY(cursor_.Skip(4, "the magic"));
    PW_ASSIGN(out_.version_, cursor_.Get<uint32_t>("the version"));
    PW_TRY(CheckVersion(out_.version_));
    PW_ASSIGN(tensor_count_, cursor_.Get<uint64_t>("the number of tensors"));
    PW_ASSIGN(key_count_, cursor_.Get<uint64_t>("the number of keys"));
    PW_TRY(CheckCount(cursor_, 8, tensor_count_, kMinTensorBytes, limits::kTensors, "tensors"));
    PW_TRY(CheckCount(cursor_, 16, key_count_, kMinEntryBytes, limits::kGgufKeys, "metadata keys"));
    return Hold(tensor_count_ * kTensorCharge + key_count_ * kEntryCharge, "the header", 8);
  }

  // Charges what is about to be kept.
  Status Hold(uint64_t bytes, const char* what, uint64_t at) {
    if (allowance_.Take(bytes)) return OkStatus();
    return Allowance::Exceeded(what).At(at);
  }

  void Note(std::string text) {
    if (out_.notes_.size() < kNotes) out_.notes_.push_back(std::move(text));
    if (out_.notes_.size() == kNotes) out_.notes_.push_back("and more of the like");
  }

  static Status CheckVersion(uint32_t version) {
    if (version == 2 || version == 3) return OkStatus();
    if (version == 0) return Error(ErrorCode::kInvalidHeader, "version 0").At(4);
    if ((version & 0xFFFF) == 0) {
      return Error(ErrorCode::kUnsupported, "the file is big-endian")
          .Hint("convert it with gguf_convert_endian.py of llama.cpp")
          .At(4);
    }
    const char* why = version == 1 ? "version 1, which llama.cpp no longer reads either"
                                   : "the version is newer than this program";
    return Error(ErrorCode::kUnsupported, fmt::format("GGUF version {}: {}", version, why)).At(4);
  }

  Status ParseEntry() {
    const uint64_t at = cursor_.pos();
    PW_ASSIGN(const std::string_view key, cursor_.GetString(limits::kGgufKeyBytes, "a key"));
    if (key.empty() || !IsPlainText(key)) {
      return Error(ErrorCode::kInvalidName, key.empty() ? "a metadata key is empty"
                                                        : "a metadata key has control characters "
                                                          "or is not UTF-8")
          .At(at);
    }
    GgufEntry entry;
    entry.key = key;
    if (!out_.key_index_.emplace(entry.key, out_.entries_.size()).second) {
      return Error(ErrorCode::kDuplicateKey, fmt::format("key \"{}\" stands twice", key)).At(at);
    }
    const uint64_t type_at = cursor_.pos();
    PW_ASSIGN(const uint32_t type, cursor_.Get<uint32_t>("a value type"));
    PW_ASSIGN(entry.type, TypeFromId(type, type_at, entry.key));
    entry.element = entry.type;
    if (entry.type == GgufType::kArray) PW_TRY(ParseArrayStart(&entry));
    entry.offset = cursor_.pos();
    PW_TRY(PassElements(entry));
    entry.bytes = cursor_.pos() - entry.offset;
    PW_TRY(Hold(kNameCopies * entry.key.size(), "the metadata", at));
    const bool printed = entry.element == GgufType::kString && entry.count <= kPrintedElements;
    if (printed) PW_TRY(Hold(kPrintedCopies * entry.bytes, "the metadata", at));
    out_.entries_.push_back(std::move(entry));
    return OkStatus();
  }

  Status ParseArrayStart(GgufEntry* entry) {
    const uint64_t at = cursor_.pos();
    PW_ASSIGN(const uint32_t type, cursor_.Get<uint32_t>("an element type"));
    PW_ASSIGN(entry->element, TypeFromId(type, at, entry->key));
    if (entry->element == GgufType::kArray) {
      return Error(ErrorCode::kUnsupported,
                   fmt::format("key \"{}\" is an array of arrays", entry->key))
          .At(at);
    }
    PW_ASSIGN(entry->count, cursor_.Get<uint64_t>("an array's length"));
    const uint64_t width = GgufTypeBytes(entry->element);
    return CheckCount(cursor_, at + 4, entry->count, width == 0 ? 8 : width,
                      limits::kGgufHeaderBytes, "array elements");
  }

  Status PassElements(const GgufEntry& entry) {
    if (entry.element == GgufType::kString) {
      for (uint64_t i = 0; i < entry.count; ++i) {
        PW_TRY(cursor_.GetString(limits::kGgufStringBytes, "a string"));
      }
      return OkStatus();
    }
    const uint64_t bytes = entry.count * GgufTypeBytes(entry.element);  // both checked
    PW_ASSIGN(const uint64_t begin, cursor_.Skip(bytes, "a value"));
    if (entry.element != GgufType::kBool) return OkStatus();
    const uint8_t* values = cursor_.At(begin);
    const bool odd = std::any_of(values, values + bytes, [](uint8_t b) { return b > 1; });
    if (odd) Note(fmt::format("key \"{:.200}\": a boolean is not 0 or 1", entry.key));
    return OkStatus();
  }

  Status FindAlignment() {
    const GgufEntry* entry = out_.Find("general.alignment");
    if (entry == nullptr) return OkStatus();
    const auto bad = [&](ErrorCode code, std::string text) {
      return Error(code, "general.alignment " + text).At(entry->offset);
    };
    if (entry->type != GgufType::kU32) {
      return bad(ErrorCode::kInvalidHeader,
                 fmt::format("is of type {}, not u32", GgufTypeName(entry->type)));
    }
    uint32_t value;
    std::memcpy(&value, cursor_.At(entry->offset), sizeof(value));
    if (value < 8 || !std::has_single_bit(value)) {
      return bad(ErrorCode::kInvalidHeader,
                 fmt::format("is {}, not a power of two of at least 8", value));
    }
    if (value > limits::kGgufAlignment) {
      return bad(ErrorCode::kLimit,
                 fmt::format("is {}, the limit is {}", value, limits::kGgufAlignment));
    }
    out_.alignment_ = value;
    return OkStatus();
  }

  Status ParseTensor() {
    const uint64_t at = cursor_.pos();
    PW_ASSIGN(const std::string_view name,
              cursor_.GetString(limits::kTensorNameBytes, "a tensor's name"));
    if (name.empty() || !IsPlainText(name)) {
      return Error(ErrorCode::kInvalidName, name.empty() ? "a tensor's name is empty"
                                                         : "a tensor's name has control characters "
                                                           "or is not UTF-8")
          .At(at);
    }
    GgufTensor tensor;
    tensor.name = name;
    if (!out_.tensor_index_.emplace(tensor.name, 0).second) {
      return Error(ErrorCode::kDuplicateKey, "two tensors have this name")
          .InTensor(tensor.name)
          .At(at);
    }
    if (tensor.name.size() > kGgufTensorNameBytes) {
      Note(fmt::format("tensor \"{}\": llama.cpp takes names of up to {} bytes", tensor.name,
                       kGgufTensorNameBytes));
    }
    PW_TRY(Hold(kNameCopies * tensor.name.size(), "the list of tensors", at));
    Status status = ParseTensorBody(&tensor);
    if (!status.ok()) return std::move(status).TakeError().InTensor(tensor.name).At(at);
    out_.tensors_.push_back(std::move(tensor));
    return OkStatus();
  }

  // Everything after the name. tensor->offset is left relative to the data.
  Status ParseTensorBody(GgufTensor* tensor) {
    const uint64_t rank_at = cursor_.pos();
    PW_ASSIGN(const uint32_t rank, cursor_.Get<uint32_t>("a tensor's rank"));
    if (rank > kGgufRank) {
      return Error(ErrorCode::kInvalidTensor,
                   fmt::format("{} dimensions; GGUF has up to {}", rank, kGgufRank))
          .At(rank_at);
    }
    tensor->shape.resize(rank);
    for (uint32_t i = 0; i < rank; ++i) {
      const uint64_t at = cursor_.pos();
      PW_ASSIGN(const int64_t dim, cursor_.Get<int64_t>("a tensor's dimension"));
      if (dim < 1) {
        return Error(ErrorCode::kInvalidTensor, fmt::format("a dimension is {}", dim)).At(at);
      }
      tensor->shape[rank - 1 - i] = dim;
    }
    const uint64_t type_at = cursor_.pos();
    PW_ASSIGN(const uint32_t type, cursor_.Get<uint32_t>("a tensor's type"));
    Result<Encoding> encoding = EncodingOfGgml(type);
    if (!encoding.ok()) return std::move(encoding).TakeError().At(type_at);
    tensor->encoding = *encoding;
    PW_ASSIGN(tensor->offset, cursor_.Get<uint64_t>("a tensor's offset"));
    return MeasureTensor(tensor);
  }

  Status MeasureTensor(GgufTensor* tensor) const {
    const std::optional<int64_t> elements = ElementCount(tensor->shape);
    if (!elements) {
      return Error(ErrorCode::kOverflow,
                   fmt::format("the shape {} has more elements than 64 bits count",
                               ShapeToString(tensor->shape)));
    }
    const int64_t cols = tensor->shape.empty() ? 1 : tensor->shape.back();
    if (tensor->encoding.kind == Encoding::Kind::kBlock) {
      const BlockTraits& traits = TraitsOf(tensor->encoding.block);
      if (cols % traits.elements != 0) {
        return Error(ErrorCode::kInvalidTensor,
                     fmt::format("rows of {} values do not divide into {} blocks of {}", cols,
                                 traits.name, traits.elements));
      }
    }
    const std::optional<uint64_t> row_bytes = tensor->encoding.RowBytes(cols);
    const std::optional<uint64_t> bytes =
        row_bytes ? CheckedMul(*row_bytes, static_cast<uint64_t>(*elements / cols)) : std::nullopt;
    if (!bytes || *bytes > static_cast<uint64_t>(INT64_MAX)) {
      return Error(ErrorCode::kOverflow, fmt::format("the shape {} has more bytes than 63 bits "
                                                     "count",
                                                     ShapeToString(tensor->shape)));
    }
    tensor->bytes = *bytes;
    if (tensor->offset % out_.alignment_ != 0) {
      return Error(ErrorCode::kMisaligned, fmt::format("data offset {} is no multiple of {}",
                                                       tensor->offset, out_.alignment_));
    }
    return OkStatus();
  }

  // Makes offsets absolute, and proves that every tensor is inside the file and apart from others.
  Status PlaceTensors(uint64_t header_end) {
    if (out_.tensors_.empty()) return OkStatus();
    const uint64_t size = out_.file_.size();
    const std::optional<uint64_t> data_start = CheckedAlign(header_end, out_.alignment_);
    if (!data_start) return Error(ErrorCode::kOverflow, "the header's end does not fit 64 bits");
    for (GgufTensor& tensor : out_.tensors_) {
      const std::optional<uint64_t> begin = CheckedAdd(*data_start, tensor.offset);
      const std::optional<uint64_t> end = begin ? CheckedAdd(*begin, tensor.bytes) : std::nullopt;
      if (!end) {
        return Error(ErrorCode::kOverflow,
                     fmt::format("offset {} plus {} bytes does not fit 64 bits", tensor.offset,
                                 tensor.bytes))
            .InTensor(tensor.name);
      }
      if (*end > size) {
        return Error(ErrorCode::kTruncated, fmt::format("its {} bytes end at {}, the file at {}",
                                                        tensor.bytes, *end, size))
            .Hint("download or copy the file again")
            .InTensor(tensor.name)
            .At(*begin);
      }
      tensor.offset = *begin;
    }
    return CheckOrder(*data_start);
  }

  Status CheckOrder(uint64_t data_start) {
    auto& tensors = out_.tensors_;
    const auto by_offset = [](const GgufTensor& a, const GgufTensor& b) {
      return a.offset < b.offset;
    };
    if (!std::is_sorted(tensors.begin(), tensors.end(), by_offset)) {
      Note("tensors are not stored in the order of their list, as llama.cpp asks");
      std::stable_sort(tensors.begin(), tensors.end(), by_offset);
    }
    uint64_t end = data_start;  // of the data so far; every end is inside the file
    const GgufTensor* before = nullptr;
    for (size_t i = 0; i < tensors.size(); ++i) {
      const GgufTensor& tensor = tensors[i];
      if (tensor.offset < end) {
        return Error(ErrorCode::kInvalidOffset,
                     fmt::format("its data overlap those of \"{}\"", before->name))
            .InTensor(tensor.name)
            .At(tensor.offset);
      }
      if (tensor.offset - end >= out_.alignment_) {
        Note(fmt::format("{} unused bytes stand before tensor \"{}\"", tensor.offset - end,
                         tensor.name));
      }
      end = tensor.offset + tensor.bytes;
      before = &tensor;
      out_.tensor_index_[tensor.name] = i;
    }
    const uint64_t rest = out_.file_.size() - end;
    if (rest >= out_.alignment_) {
      Note(fmt::format("{} bytes follow the last tensor", rest));
    }
    return OkStatus();
  }

  GgufFile& out_;
  HeaderCursor cursor_;
  Allowance allowance_;
  uint64_t tensor_count_ = 0;
  uint64_t key_count_ = 0;
};

Result<GgufFile> GgufFile::Open(const std::string& path) {
  PW_ASSIGN(ReadFile file, ReadFile::Open(path));
  GgufFile out(std::move(file));
  Status status = GgufParser(&out).Parse();
  if (!status.ok()) return std::move(status).TakeError().InFile(path);
  return out;
}

const GgufEntry* GgufFile::Find(std::string_view key) const {
  const auto it = key_index_.find(std::string(key));
  return it == key_index_.end() ? nullptr : &entries_[it->second];
}

const GgufTensor* GgufFile::FindTensor(std::string_view name) const {
  const auto it = tensor_index_.find(std::string(name));
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

std::string_view GgufFile::Payload(const GgufEntry& entry) const {
  return {reinterpret_cast<const char*>(header_.data()) + entry.offset, entry.bytes};
}

namespace {

template <class T>
T Load(std::string_view bytes, uint64_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

// Element `index` of a numeric payload; nullopt when it is no integer or does not fit.
std::optional<int64_t> LoadInteger(GgufType type, std::string_view bytes, uint64_t index) {
  switch (type) {
    case GgufType::kU8:
      return Load<uint8_t>(bytes, index);
    case GgufType::kI8:
      return Load<int8_t>(bytes, index);
    case GgufType::kU16:
      return Load<uint16_t>(bytes, index);
    case GgufType::kI16:
      return Load<int16_t>(bytes, index);
    case GgufType::kU32:
      return Load<uint32_t>(bytes, index);
    case GgufType::kI32:
      return Load<int32_t>(bytes, index);
    case GgufType::kI64:
      return Load<int64_t>(bytes, index);
    case GgufType::kU64: {
      const uint64_t value = Load<uint64_t>(bytes, index);
      if (value > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

std::optional<double> LoadDouble(GgufType type, std::string_view bytes, uint64_t index) {
  if (type == GgufType::kF32) return ShortestDouble(Load<float>(bytes, index));
  if (type == GgufType::kF64) return Load<double>(bytes, index);
  if (type == GgufType::kU64) return static_cast<double>(Load<uint64_t>(bytes, index));
  const std::optional<int64_t> integer = LoadInteger(type, bytes, index);
  if (!integer) return std::nullopt;
  return static_cast<double>(*integer);
}

std::string PrintElement(GgufType type, std::string_view bytes, uint64_t index) {
  if (type == GgufType::kBool) return Load<uint8_t>(bytes, index) != 0 ? "true" : "false";
  if (type == GgufType::kU64) return fmt::format("{}", Load<uint64_t>(bytes, index));
  if (const auto integer = LoadInteger(type, bytes, index)) return fmt::format("{}", *integer);
  return fmt::format("{}", LoadDouble(type, bytes, index).value_or(0));
}

}  // namespace

std::optional<int64_t> GgufFile::AsInteger(const GgufEntry& entry) const {
  if (entry.type == GgufType::kArray) return std::nullopt;
  return LoadInteger(entry.type, Payload(entry), 0);
}

std::optional<double> GgufFile::AsDouble(const GgufEntry& entry) const {
  if (entry.type == GgufType::kArray) return std::nullopt;
  return LoadDouble(entry.type, Payload(entry), 0);
}

std::optional<bool> GgufFile::AsBool(const GgufEntry& entry) const {
  if (entry.type != GgufType::kBool) return std::nullopt;
  return Payload(entry)[0] != 0;
}

std::optional<std::string_view> GgufFile::AsString(const GgufEntry& entry) const {
  if (entry.type != GgufType::kString) return std::nullopt;
  return Payload(entry).substr(8);
}

std::optional<std::vector<std::string_view>> GgufFile::AsStrings(const GgufEntry& entry) const {
  if (entry.type != GgufType::kArray || entry.element != GgufType::kString) return std::nullopt;
  std::string_view rest = Payload(entry);
  std::vector<std::string_view> out;
  out.reserve(entry.count);
  for (uint64_t i = 0; i < entry.count; ++i) {
    const uint64_t length = Load<uint64_t>(rest, 0);  // proven by the parser
    out.push_back(rest.substr(8, length));
    rest.remove_prefix(8 + length);
  }
  return out;
}

std::optional<std::vector<double>> GgufFile::AsDoubles(const GgufEntry& entry) const {
  if (entry.type != GgufType::kArray || GgufTypeBytes(entry.element) == 0) return std::nullopt;
  std::vector<double> out(entry.count);
  for (uint64_t i = 0; i < entry.count; ++i) {
    const auto value = LoadDouble(entry.element, Payload(entry), i);
    if (!value) return std::nullopt;
    out[i] = *value;
  }
  return out;
}

std::optional<std::vector<int64_t>> GgufFile::AsIntegers(const GgufEntry& entry) const {
  if (entry.type != GgufType::kArray || GgufTypeBytes(entry.element) == 0) return std::nullopt;
  std::vector<int64_t> out(entry.count);
  for (uint64_t i = 0; i < entry.count; ++i) {
    const auto value = LoadInteger(entry.element, Payload(entry), i);
    if (!value) return std::nullopt;
    out[i] = *value;
  }
  return out;
}

std::string GgufFile::Printable(const GgufEntry& entry) const {
  if (entry.type == GgufType::kString) return EscapeText(*AsString(entry));
  if (entry.type != GgufType::kArray) return PrintElement(entry.type, Payload(entry), 0);
  if (entry.count > kPrintedElements) {
    const char* plural = entry.element == GgufType::kString ? " strings" : "";
    return plural[0] != 0
               ? fmt::format("[{}{}]", entry.count, plural)
               : fmt::format("[{} values of {}]", entry.count, GgufTypeName(entry.element));
  }
  std::string out = "[";
  const auto strings = AsStrings(entry);
  for (uint64_t i = 0; i < entry.count; ++i) {
    if (i > 0) out += ", ";
    out += strings ? "\"" + EscapeText((*strings)[i]) + "\""
                   : PrintElement(entry.element, Payload(entry), i);
  }
  return out + "]";
}

}  // namespace pennyweight
