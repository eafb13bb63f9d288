#include "formats/imatrix_gguf.h"

#include <fmt/format.h>

#include <map>
#include <memory>
#include <utility>

#include "formats/gguf_output.h"
#include "formats/gguf_reader.h"

namespace pennyweight {
namespace {

constexpr std::string_view kSums = ".in_sum2";
constexpr std::string_view kCounts = ".counts";
constexpr std::string_view kDatasets = "imatrix.datasets";
constexpr std::string_view kChunkCount = "imatrix.chunk_count";
constexpr std::string_view kChunkSize = "imatrix.chunk_size";

struct Pair {
  const GgufTensor* sums = nullptr;
  const GgufTensor* counts = nullptr;
};

int64_t IntegerOr(const GgufFile& file, std::string_view key, int64_t otherwise) {
  const GgufEntry* entry = file.Find(key);
  if (entry == nullptr) return otherwise;
  return file.AsInteger(*entry).value_or(otherwise);
}

void ReadTexts(const GgufFile& file, Statistics* out) {
  const GgufEntry* entry = file.Find(kDatasets);
  if (entry == nullptr) return;
  const auto names = file.AsStrings(*entry);
  if (!names) return;
  for (const std::string_view name : *names) out->texts.push_back({std::string(name), "", 0});
}

Status ReadFloats(const GgufFile& file, const GgufTensor& tensor, std::vector<float>* out) {
  // The tensor lies inside the file: GgufFile::Open checked that.
  out->resize(tensor.bytes / sizeof(float));
  return file.file().ReadAt(tensor.offset, out->data(), tensor.bytes);
}

Status ReadPair(const GgufFile& file, const std::string& name, const Pair& pair,
                const StatisticsNames& names, Allowance* allowance, Statistics* out) {
  if (pair.sums == nullptr || pair.counts == nullptr) {
    return Error(ErrorCode::kInvalidTensor,
                 fmt::format("\"{}{}\" is there without \"{}{}\"", name,
                             pair.sums != nullptr ? kSums : kCounts, name,
                             pair.sums != nullptr ? kCounts : kSums));
  }
  for (const GgufTensor* tensor : {pair.sums, pair.counts}) {
    if (tensor->encoding != Encoding::Plain(DType::kF32)) {
      return Error(ErrorCode::kInvalidTensor,
                   fmt::format("sums and counts must be f32, this is {}", tensor->encoding.Name()))
          .InTensor(tensor->name);
    }
  }
  ImatrixEntry entry;
  entry.name = name;
  PW_TRY(ReadFloats(file, *pair.sums, &entry.sums));
  PW_TRY(ReadFloats(file, *pair.counts, &entry.counts));
  return AddImatrixEntry(entry, names, allowance, out);
}

}  // namespace

Result<Statistics> ReadImatrixGguf(const std::string& path, const StatisticsNames& names) {
  PW_ASSIGN(const GgufFile file, GgufFile::Open(path));
  std::map<std::string, Pair> pairs;
  for (const GgufTensor& tensor : file.tensors()) {
    const std::string_view name = tensor.name;
    if (name.ends_with(kSums)) {
      pairs[std::string(name.substr(0, name.size() - kSums.size()))].sums = &tensor;
    } else if (name.ends_with(kCounts)) {
      pairs[std::string(name.substr(0, name.size() - kCounts.size()))].counts = &tensor;
    }
  }
  if (pairs.empty()) {
    return Error(ErrorCode::kUnknownFormat, "a GGUF file without an importance matrix")
        .Hint("`pennyweight calibrate MODEL -o imatrix.gguf` makes one")
        .InFile(path);
  }
  Statistics statistics;
  statistics.window = std::max<int64_t>(1, IntegerOr(file, kChunkSize, statistics.window));
  statistics.windows = std::max<int64_t>(0, IntegerOr(file, kChunkCount, 0));
  ReadTexts(file, &statistics);
  Allowance allowance(file.file().size());
  for (const auto& [name, pair] : pairs) {
    Status status = ReadPair(file, name, pair, names, &allowance, &statistics);
    if (!status.ok()) return std::move(status).TakeError().InFile(path);
  }
  return statistics;
}

Status WriteImatrixGguf(const std::string& path, bool force, const Statistics& statistics,
                        const StatisticsNames& names) {
  PW_ASSIGN(const std::vector<ImatrixEntry> entries, ToImatrixEntries(statistics, names));
  GgufHeader header;
  header.AddString("general.type", "imatrix");
  std::vector<std::string_view> texts;
  for (const StatisticsText& text : statistics.texts) texts.push_back(text.name);
  header.AddStrings(kDatasets, texts);
  header.AddU32(kChunkCount, static_cast<uint32_t>(statistics.windows));
  header.AddU32(kChunkSize, static_cast<uint32_t>(statistics.window));
  const Encoding f32 = Encoding::Plain(DType::kF32);
  for (const ImatrixEntry& entry : entries) {
    const auto matrices = static_cast<int64_t>(entry.counts.size());
    const int64_t width = static_cast<int64_t>(entry.sums.size()) / matrices;
    const Shape sums = matrices == 1 ? Shape{width} : Shape{matrices, width};
    const Shape counts = matrices == 1 ? Shape{1} : Shape{matrices, 1};
    PW_TRY(header.AddTensor(entry.name + std::string(kSums), f32, sums));
    PW_TRY(header.AddTensor(entry.name + std::string(kCounts), f32, counts));
  }
  PW_ASSIGN(const std::unique_ptr<GgufOutput> output,
            GgufOutput::Create(path, std::move(header), force, nullptr));
  for (size_t i = 0; i < entries.size(); ++i) {
    const ImatrixEntry& entry = entries[i];
    PW_TRY(output->Write(2 * i, 0, entry.sums.data(), entry.sums.size() * sizeof(float)));
    PW_TRY(output->Write(2 * i + 1, 0, entry.counts.data(), entry.counts.size() * sizeof(float)));
  }
  PW_TRY(output->Seal());
  return output->Commit();
}

}  // namespace pennyweight
