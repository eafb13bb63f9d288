#include "formats/imatrix_legacy.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "lib/file.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

// Bytes of the smallest entry: three numbers, a name of one byte, one value.
constexpr uint64_t kLeastEntry = 3 * sizeof(int32_t) + 1 + sizeof(float);

class LegacyParser {
 public:
  explicit LegacyParser(const ReadFile& file) : file_(file) {}

  uint64_t left() const { return file_.size() - at_; }
  uint64_t at() const { return at_; }

  Result<int32_t> Number() {
    int32_t value = 0;
    PW_TRY(Read(&value, sizeof(value), "a number"));
    return value;
  }
  Result<std::string> Text(int32_t bytes) {
    if (bytes < 0 || static_cast<uint64_t>(bytes) > limits::kTensorNameBytes) {
      return Error(ErrorCode::kInvalidName, fmt::format("a name of {} bytes", bytes)).At(at_ - 4);
    }
    std::string text(static_cast<size_t>(bytes), '\0');
    PW_TRY(Read(text.data(), text.size(), "a name"));
    return text;
  }
  Status Floats(int32_t count, std::vector<float>* out) {
    if (count < 1) {
      return Error(ErrorCode::kInvalidTensor, fmt::format("an entry of {} values", count))
          .At(at_ - 4);
    }
    const uint64_t bytes = static_cast<uint64_t>(count) * sizeof(float);
    if (bytes > left()) return Short("values");
    out->resize(static_cast<size_t>(count));
    return Read(out->data(), bytes, "values");
  }

 private:
  Error Short(std::string_view what) const {
    return Error(ErrorCode::kTruncated, fmt::format("the file ends inside {}", what)).At(at_);
  }
  Status Read(void* to, uint64_t bytes, std::string_view what) {
    if (bytes > left()) return Short(what);
    PW_TRY(file_.ReadAt(at_, to, bytes));
    at_ += bytes;
    return OkStatus();
  }

  const ReadFile& file_;
  uint64_t at_ = 0;
};

Status ReadEntry(LegacyParser* parser, const StatisticsNames& names, int64_t window,
                 std::unordered_set<std::string>* seen, Allowance* allowance, Statistics* out) {
  const uint64_t begin = parser->at();
  ImatrixEntry entry;
  PW_ASSIGN(const int32_t name_bytes, parser->Number());
  PW_ASSIGN(entry.name, parser->Text(name_bytes));
  PW_ASSIGN(const int32_t calls, parser->Number());
  PW_ASSIGN(const int32_t values, parser->Number());
  PW_TRY(parser->Floats(values, &entry.sums));
  if (calls < 0) {
    return Error(ErrorCode::kInvalidTensor, fmt::format("an entry of {} calls", calls))
        .InTensor(entry.name)
        .At(begin);
  }
  if (!allowance->Take(entry.name.size() + 64)) return Allowance::Exceeded("the list of entries");
  if (!seen->insert(entry.name).second) {
    return Error(ErrorCode::kDuplicateKey, "an entry stands there twice")
        .InTensor(entry.name)
        .At(begin);
  }
  // llama.cpp takes the values of no call as they are.
  const auto scale = static_cast<float>(window);
  entry.counts = {static_cast<float>(std::max(calls, 1)) * scale};
  for (float& v : entry.sums) v *= scale;
  Status status = AddImatrixEntry(entry, names, allowance, out);
  if (!status.ok()) return std::move(status).TakeError().At(begin);
  return OkStatus();
}

// Windows and text, which the first such files did not have.
Status ReadTail(LegacyParser* parser, Statistics* out) {
  if (parser->left() == 0) return OkStatus();
  PW_ASSIGN(const int32_t windows, parser->Number());
  out->windows = std::max(windows, 0);
  if (parser->left() == 0) return OkStatus();
  PW_ASSIGN(const int32_t bytes, parser->Number());
  if (bytes == 0) return OkStatus();
  PW_ASSIGN(std::string text, parser->Text(bytes));
  out->texts.push_back({std::move(text), "", 0});
  return OkStatus();
}

Result<Statistics> Parse(const ReadFile& file, const StatisticsNames& names, int64_t window) {
  LegacyParser parser(file);
  PW_ASSIGN(const int32_t entries, parser.Number());
  if (entries < 1 || static_cast<uint64_t>(entries) > parser.left() / kLeastEntry) {
    return Error(ErrorCode::kUnknownFormat, "neither statistics nor an importance matrix")
        .Hint("`pennyweight calibrate MODEL -o imatrix.gguf` makes one");
  }
  Statistics statistics;
  statistics.window = window;
  Allowance allowance(file.size());
  std::unordered_set<std::string> seen;
  for (int32_t i = 0; i < entries; ++i) {
    PW_TRY(ReadEntry(&parser, names, window, &seen, &allowance, &statistics));
  }
  PW_TRY(ReadTail(&parser, &statistics));
  return statistics;
}

}  // namespace

Result<Statistics> ReadImatrixLegacy(const std::string& path, const StatisticsNames& names,
                                     int64_t window) {
  PW_ASSIGN(const ReadFile file, ReadFile::Open(path));
  Result<Statistics> statistics = Parse(file, names, window);
  if (!statistics.ok()) return std::move(statistics).TakeError().InFile(path);
  return statistics;
}

}  // namespace pennyweight
