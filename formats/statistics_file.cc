#include "formats/statistics_file.h"

#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <unordered_set>
#include <utility>

#include "formats/imatrix_gguf.h"
#include "formats/imatrix_legacy.h"
#include "formats/statistics_layout.h"
#include "lib/checked.h"
#include "lib/hash.h"
#include "lib/json.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

uint64_t SumsBytes(int64_t width, bool moments) {
  return static_cast<uint64_t>(width) *
         (moments ? 3 * sizeof(double) + sizeof(float) : sizeof(double));
}

// The reverse of ToPlanes (formats/statistics_sink.cc).
void FromPlanes(const uint8_t* planes, size_t count, float* values) {
  auto* bytes = reinterpret_cast<uint8_t*>(values);
  for (size_t i = 0; i < count; ++i) {
    for (size_t b = 0; b < sizeof(float); ++b) bytes[i * sizeof(float) + b] = planes[b * count + i];
  }
}

Error Bad(ErrorCode code, std::string message) {
  return Error(code, std::move(message)).Hint("make the file anew with `pennyweight calibrate`");
}

// A key of an object of the directory. Errors: kInvalidHeader.
Result<const Json*> Need(const Json& object, std::string_view key) {
  const Json* value = object.Find(key);
  if (value == nullptr) {
    return Bad(ErrorCode::kInvalidHeader, fmt::format("the directory lacks \"{}\"", key));
  }
  return value;
}

Result<int64_t> NeedInteger(const Json& object, std::string_view key, int64_t least, int64_t most) {
  PW_ASSIGN(const Json* value, Need(object, key));
  const auto number = value->AsInteger();
  if (!number || *number < least || *number > most) {
    return Bad(ErrorCode::kInvalidHeader,
               fmt::format("\"{}\" of the directory is no number from {} to {}", key, least, most));
  }
  return *number;
}

Result<std::string> NeedString(const Json& object, std::string_view key) {
  PW_ASSIGN(const Json* value, Need(object, key));
  auto text = value->AsString();
  if (!text) {
    return Bad(ErrorCode::kInvalidHeader, fmt::format("\"{}\" of the directory is no text", key));
  }
  return *std::move(text);
}

Result<const std::vector<Json>*> NeedItems(const Json& object, std::string_view key) {
  PW_ASSIGN(const Json* value, Need(object, key));
  if (!value->is_array()) {
    return Bad(ErrorCode::kInvalidHeader, fmt::format("\"{}\" of the directory is no list", key));
  }
  return &value->items();
}

constexpr int64_t kMany = int64_t{1} << 62;

bool IsName(const std::string& name) {
  return !name.empty() && name.size() <= limits::kTensorNameBytes &&
         std::none_of(name.begin(), name.end(),
                      [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

Status CheckSums(const InputSums& sums) {
  const auto finite = [](double v) { return std::isfinite(v); };
  const auto negative = [](double v) { return v < 0; };
  bool all_finite = std::ranges::all_of(sums.sum, finite);
  bool any_negative = false;
  for (const std::vector<double>* values : {&sums.sum_sq, &sums.sum_abs}) {
    all_finite = all_finite && std::ranges::all_of(*values, finite);
    any_negative = any_negative || std::ranges::any_of(*values, negative);
  }
  for (const float v : sums.max_abs) {
    all_finite = all_finite && finite(v);
    any_negative = any_negative || negative(v);
  }
  if (!all_finite) return Bad(ErrorCode::kNonFinite, "a sum is NaN or infinite");
  if (any_negative) return Bad(ErrorCode::kInvalidTensor, "a sum of squares or sizes is negative");
  return OkStatus();
}

}  // namespace

std::vector<HessianBlock> CutHessian(int64_t width) {
  std::vector<HessianBlock> blocks;
  for (int64_t row = 0; row < width;) {
    HessianBlock block{row, 0, 0};
    do {
      block.floats += width - row;
      ++block.rows;
      ++row;
    } while (row < width && block.floats + (width - row) <= kHessianBlockFloats);
    blocks.push_back(block);
  }
  return blocks;
}

// Reads and checks the directory of a file, and the sums behind it.
class StatisticsDirectory {
 public:
  explicit StatisticsDirectory(StatisticsFile* out)
      : out_(out), file_(*out->file_), allowance_(out->file_->size()) {}

  Status Read() {
    StatisticsHeader header;
    PW_TRY(file_.ReadAt(0, &header, sizeof(header)));
    if (header.version != kStatisticsVersion || header.zero != 0) {
      return Error(ErrorCode::kUnsupported,
                   fmt::format("statistics of version {}, this program reads {}", header.version,
                               kStatisticsVersion))
          .Hint("make the file anew with `pennyweight calibrate`")
          .At(sizeof(kStatisticsMagic));
    }
    const auto end = CheckedAdd(header.directory_offset, header.directory_bytes);
    if (!end || header.directory_offset < sizeof(StatisticsHeader) || *end > file_.size()) {
      return Bad(ErrorCode::kTruncated, "the directory lies behind the end of the file").At(16);
    }
    if (*end != file_.size()) {
      return Bad(ErrorCode::kIncompleteBuffer, "bytes behind the directory").At(*end);
    }
    if (header.directory_bytes > limits::kStatisticsDirectoryBytes ||
        !allowance_.Take(header.directory_bytes)) {
      return Error(ErrorCode::kLimit, "the directory is too long").At(24);
    }
    data_end_ = header.directory_offset;
    std::string text(header.directory_bytes, '\0');
    PW_TRY(file_.ReadAt(header.directory_offset, text.data(), text.size()));
    if (HashBytes(text.data(), text.size()) != header.directory_hash) {
      return Bad(ErrorCode::kChecksum, "the directory is not what was written")
          .At(header.directory_offset);
    }
    PW_ASSIGN(const Json root, Json::Parse(text));
    PW_TRY(ReadAbout(root));
    PW_ASSIGN(const std::vector<Json>* inputs, NeedItems(root, "inputs"));
    for (const Json& input : *inputs) PW_TRY(ReadInput(input));
    return CheckRanges();
  }

 private:
  Status ReadAbout(const Json& root) {
    Statistics& s = out_->statistics_;
    PW_ASSIGN(s.model, NeedString(root, "model"));
    PW_ASSIGN(s.window, NeedInteger(root, "window", 1, kMany));
    PW_ASSIGN(s.windows, NeedInteger(root, "windows", 0, kMany));
    PW_ASSIGN(const std::vector<Json>* texts, NeedItems(root, "texts"));
    for (const Json& text : *texts) {
      StatisticsText row;
      PW_ASSIGN(row.name, NeedString(text, "name"));
      PW_ASSIGN(row.hash, NeedString(text, "hash"));
      PW_ASSIGN(row.tokens, NeedInteger(text, "tokens", 0, kMany));
      if (!allowance_.Take(sizeof(row) + row.name.size() + row.hash.size())) {
        return Allowance::Exceeded("the list of texts");
      }
      s.texts.push_back(std::move(row));
    }
    return OkStatus();
  }

  Status ReadInput(const Json& json) {
    InputSums sums;
    PW_ASSIGN(const std::vector<Json>* weights, NeedItems(json, "weights"));
    for (const Json& weight : *weights) {
      const auto name = weight.AsString();
      if (!name || !IsName(*name)) {
        return Bad(ErrorCode::kInvalidName, "the name of a matrix is empty, too long or no text");
      }
      if (!allowance_.Take(2 * (sizeof(std::string) + name->size()) + 64)) {
        return Allowance::Exceeded("the list of names");
      }
      if (!names_.insert(*name).second) {
        return Bad(ErrorCode::kDuplicateKey, "a matrix stands there twice").InTensor(*name);
      }
      sums.weights.push_back(*name);
    }
    if (sums.weights.empty()) return Bad(ErrorCode::kInvalidHeader, "an input without matrices");
    const std::string name = sums.weights.front();
    Status status = ReadSums(json, &sums);
    if (!status.ok()) return std::move(status).TakeError().InTensor(name);
    StatisticsFile::Hessian hessian;
    status = ReadHessian(json, sums.width, &hessian);
    if (!status.ok()) return std::move(status).TakeError().InTensor(name);
    out_->statistics_.inputs.push_back(std::move(sums));
    out_->hessians_.push_back(std::move(hessian));
    return OkStatus();
  }

  Status ReadSums(const Json& json, InputSums* sums) {
    PW_ASSIGN(sums->width, NeedInteger(json, "width", 1, limits::kDimension));
    PW_ASSIGN(sums->tokens, NeedInteger(json, "tokens", 0, kMany));
    PW_ASSIGN(const Json* flag, Need(json, "moments"));
    const auto moments = flag->AsBool();
    if (!moments) {
      return Bad(ErrorCode::kInvalidHeader, "\"moments\" of the directory is no true or false");
    }
    PW_ASSIGN(const Json* place, Need(json, "sums"));
    PW_ASSIGN(const int64_t offset, NeedInteger(*place, "offset", sizeof(StatisticsHeader), kMany));
    PW_ASSIGN(const std::string hash, NeedString(*place, "hash"));
    const uint64_t bytes = SumsBytes(sums->width, *moments);
    PW_TRY(Claim(static_cast<uint64_t>(offset), bytes));
    if (!allowance_.Take(bytes + sizeof(InputSums))) return Allowance::Exceeded("the statistics");
    Hasher hasher;
    uint64_t at = static_cast<uint64_t>(offset);
    const auto read = [&](auto* values) -> Status {
      values->resize(static_cast<size_t>(sums->width));
      const uint64_t size = values->size() * sizeof((*values)[0]);
      PW_TRY(file_.ReadAt(at, values->data(), size));
      hasher.Update(values->data(), size);
      at += size;
      return OkStatus();
    };
    PW_TRY(read(&sums->sum_sq));
    if (*moments) {
      PW_TRY(read(&sums->sum));
      PW_TRY(read(&sums->sum_abs));
      PW_TRY(read(&sums->max_abs));
    }
    if (HashText(hasher.Digest()) != hash) {
      return Bad(ErrorCode::kChecksum, "the sums are not what was written")
          .At(static_cast<uint64_t>(offset));
    }
    return CheckSums(*sums);
  }

  Status ReadHessian(const Json& json, int64_t width, StatisticsFile::Hessian* out) {
    PW_ASSIGN(const Json* place, Need(json, "hessian"));
    if (place->is_null()) return OkStatus();
    PW_ASSIGN(const int64_t offset, NeedInteger(*place, "offset", sizeof(StatisticsHeader), kMany));
    PW_ASSIGN(out->hash, NeedString(*place, "hash"));
    PW_ASSIGN(const std::vector<Json>* blocks, NeedItems(*place, "blocks"));
    // Every block is listed with its bytes, and no frame has fewer than a few: the list bounds
    // them.
    if (blocks->size() != CountBlocks(width, blocks->size())) {
      return Bad(ErrorCode::kInvalidHeader,
                 fmt::format("{} blocks are not those of {} channels", blocks->size(), width));
    }
    uint64_t bytes = 0;
    for (const Json& block : *blocks) {
      const auto size = block.AsUnsigned();
      const auto sum = CheckedAdd(bytes, size.value_or(0));
      if (!size || *size == 0 || !sum) {
        return Bad(ErrorCode::kInvalidHeader, "the size of a block is no number");
      }
      bytes = *sum;
      out->blocks.push_back(*size);
    }
    if (!allowance_.Take(out->blocks.size() * sizeof(uint64_t))) {
      return Allowance::Exceeded("the list of blocks");
    }
    out->present = true;
    out->offset = static_cast<uint64_t>(offset);
    return Claim(out->offset, bytes);
  }

  // The number of blocks, or something else above `most`, without making a list of them.
  static size_t CountBlocks(int64_t width, size_t most) {
    size_t count = 0;
    for (int64_t row = 0; row < width && count <= most; ++count) {
      int64_t floats = width - row;
      ++row;
      while (row < width && floats + (width - row) <= kHessianBlockFloats) floats += width - row++;
    }
    return count;
  }

  // Data [offset, offset + bytes) belong to one owner.
  Status Claim(uint64_t offset, uint64_t bytes) {
    const auto end = CheckedAdd(offset, bytes);
    if (!end || *end > data_end_) {
      return Bad(ErrorCode::kTruncated, "data lie behind the end of the file").At(offset);
    }
    ranges_.emplace_back(offset, *end);
    return OkStatus();
  }

  Status CheckRanges() {
    std::sort(ranges_.begin(), ranges_.end());
    uint64_t at = sizeof(StatisticsHeader);
    for (const auto& [begin, end] : ranges_) {
      if (begin != at) {
        return Bad(ErrorCode::kInvalidOffset, "data overlap, or have holes between them").At(begin);
      }
      at = end;
    }
    if (at != data_end_) {
      return Bad(ErrorCode::kInvalidOffset, "data that belong to no matrix").At(at);
    }
    return OkStatus();
  }

  StatisticsFile* out_;
  const ReadFile& file_;
  Allowance allowance_;
  uint64_t data_end_ = 0;
  std::unordered_set<std::string> names_;
  std::vector<std::pair<uint64_t, uint64_t>> ranges_;
};

Result<StatisticsFile> StatisticsFile::Open(const std::string& path, const StatisticsNames& names,
                                            int64_t window) {
  StatisticsFile result;
  result.path_ = path;
  char magic[8] = {};
  {
    PW_ASSIGN(ReadFile file, ReadFile::Open(path));
    const uint64_t bytes = std::min<uint64_t>(sizeof(magic), file.size());
    PW_TRY(file.ReadAt(0, magic, bytes));
    result.file_ = std::make_unique<ReadFile>(std::move(file));
  }
  if (std::memcmp(magic, kStatisticsMagic, sizeof(kStatisticsMagic)) == 0) {
    Status status = StatisticsDirectory(&result).Read();
    if (!status.ok()) return std::move(status).TakeError().InFile(path);
    return result;
  }
  result.file_.reset();
  if (std::string_view(magic, 4) == "GGUF") {
    result.kind_ = Kind::kImatrix;
    PW_ASSIGN(result.statistics_, ReadImatrixGguf(path, names));
  } else {
    result.kind_ = Kind::kImatrixLegacy;
    PW_ASSIGN(result.statistics_, ReadImatrixLegacy(path, names, window));
  }
  return result;
}

bool StatisticsFile::HasHessians() const {
  return !hessians_.empty() &&
         std::ranges::all_of(hessians_, [](const Hessian& h) { return h.present; });
}

Status StatisticsFile::AddHessian(size_t input, float* h) const {
  const Hessian& hessian = hessians_[input];
  const InputSums& sums = statistics_.inputs[input];
  const int64_t width = sums.width;
  std::vector<uint8_t> compressed, planes;
  std::vector<float> values;
  Hasher hasher;
  uint64_t at = hessian.offset;
  const auto fail = [&](ErrorCode code, const char* what) {
    return Bad(code, what).InTensor(sums.weights.front()).InFile(path_).At(at);
  };
  size_t number = 0;
  for (const HessianBlock& block : CutHessian(width)) {
    // The directory was checked: as many blocks, all inside the file.
    compressed.resize(hessian.blocks[number++]);
    PW_TRY(file_->ReadAt(at, compressed.data(), compressed.size()));
    const size_t count = static_cast<size_t>(block.floats);
    planes.resize(count * sizeof(float));
    values.resize(count);
    const size_t size =
        ZSTD_decompress(planes.data(), planes.size(), compressed.data(), compressed.size());
    if (ZSTD_isError(size) != 0 || size != planes.size()) {
      return fail(ErrorCode::kChecksum, "a block of the Hessian cannot be decompressed");
    }
    FromPlanes(planes.data(), count, values.data());
    hasher.Update(values.data(), count * sizeof(float));
    const float* from = values.data();
    for (int64_t row = block.row; row < block.row + block.rows; ++row) {
      for (float* to = h + row * width + row; to != h + (row + 1) * width; ++to, ++from) {
        if (!std::isfinite(*from)) {
          return fail(ErrorCode::kNonFinite, "the Hessian has NaN or infinity");
        }
        *to += *from;
      }
    }
    at += compressed.size();
  }
  if (HashText(hasher.Digest()) != hessian.hash) {
    return fail(ErrorCode::kChecksum, "the Hessian is not what was written");
  }
  return OkStatus();
}

}  // namespace pennyweight
