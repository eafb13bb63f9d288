#include "formats/imatrix_gguf.h"

#include <fmt/format.h>

#include <map>
#include <utility>

#include "formats/gguf_reader.h"

namespace pennyweight {
namespace {

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
  const GgufEntry* entry = file.Find(kImatrixDatasets);
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
                             pair.sums != nullptr ? kImatrixSums : kImatrixCounts, name,
                             pair.sums != nullptr ? kImatrixCounts : kImatrixSums));
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
    if (name.ends_with(kImatrixSums)) {
      pairs[std::string(name.substr(0, name.size() - kImatrixSums.size()))].sums = &tensor;
    } else if (name.ends_with(kImatrixCounts)) {
      pairs[std::string(name.substr(0, name.size() - kImatrixCounts.size()))].counts = &tensor;
    }
  }
  if (pairs.empty()) {
    return Error(ErrorCode::kUnknownFormat, "a GGUF file without an importance matrix")
        .Hint("`pennyweight calibrate MODEL -o imatrix.gguf` makes one")
        .InFile(path);
  }
  Statistics statistics;
  statistics.window = std::max<int64_t>(1, IntegerOr(file, kImatrixChunkSize, statistics.window));
  statistics.windows = std::max<int64_t>(0, IntegerOr(file, kImatrixChunkCount, 0));
  ReadTexts(file, &statistics);
  Allowance allowance(file.file().size());
  for (const auto& [name, pair] : pairs) {
    Status status = ReadPair(file, name, pair, names, &allowance, &statistics);
    if (!status.ok()) return std::move(status).TakeError().InFile(path);
  }
  return statistics;
}

}  // namespace pennyweight
