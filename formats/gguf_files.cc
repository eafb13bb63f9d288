// Models split over several GGUF files by llama.cpp's gguf-split: NAME-00001-of-00003.gguf. Each
// file is a GGUF of its own; split.no (from 0), split.count and split.tensors.count tie them.
#include <fmt/format.h>

#include <unordered_set>

#include "formats/gguf_reader.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

int64_t IntegerOr(const GgufFile& file, std::string_view key, int64_t otherwise) {
  const GgufEntry* entry = file.Find(key);
  return entry == nullptr ? otherwise : file.AsInteger(*entry).value_or(otherwise);
}

Status CheckSplit(const GgufFile& file, int64_t number, int64_t count) {
  const int64_t says_number = IntegerOr(file, "split.no", -1);
  const int64_t says_count = IntegerOr(file, "split.count", -1);
  if (says_number == number && says_count == count) return OkStatus();
  return Error(ErrorCode::kShardMismatch,
               fmt::format("part {} of {} was expected, split.no is {} and split.count {}",
                           number + 1, count, says_number, says_count))
      .Hint("put the parts of one and the same model into the folder")
      .InFile(file.file().path());
}

Status CheckTensors(const std::vector<GgufFile>& files) {
  std::unordered_set<std::string_view> names;
  for (const GgufFile& file : files) {
    for (const GgufTensor& tensor : file.tensors()) {
      if (names.insert(tensor.name).second) continue;
      return Error(ErrorCode::kDuplicateKey, "the tensor stands in two parts of the model")
          .InFile(file.file().path())
          .InTensor(tensor.name);
    }
  }
  const int64_t announced = IntegerOr(files.front(), "split.tensors.count", -1);
  if (announced >= 0 && static_cast<size_t>(announced) != names.size()) {
    return Error(ErrorCode::kShardMismatch,
                 fmt::format("split.tensors.count is {}, the parts have {} tensors", announced,
                             names.size()))
        .InFile(files.front().file().path());
  }
  return OkStatus();
}

}  // namespace

std::string GgufSplitSuffix(uint64_t number, uint64_t count) {
  return fmt::format("-{:05}-of-{:05}.gguf", number + 1, count);
}

Result<std::vector<GgufFile>> OpenGgufFiles(const std::string& path) {
  PW_ASSIGN(GgufFile named, GgufFile::Open(path));
  std::vector<GgufFile> files;
  const int64_t count = IntegerOr(named, "split.count", 1);
  if (count <= 1) {
    files.push_back(std::move(named));
    return files;
  }
  const int64_t own = IntegerOr(named, "split.no", -1);
  if (static_cast<uint64_t>(count) > limits::kGgufSplits || own < 0 || own >= count) {
    return Error(ErrorCode::kShardMismatch,
                 fmt::format("split.no is {} and split.count {}", own, count))
        .InFile(path);
  }
  // Names of the others come from this one's own name, never from what stands in a file.
  const std::string suffix =
      GgufSplitSuffix(static_cast<uint64_t>(own), static_cast<uint64_t>(count));
  if (path.size() < suffix.size() || path.substr(path.size() - suffix.size()) != suffix) {
    return Error(ErrorCode::kShardMissing,
                 fmt::format("this is part {} of {}; the others are found only when its name ends "
                             "in \"{}\"",
                             own + 1, count, suffix))
        .Hint("give the parts back the names they were made with")
        .InFile(path);
  }
  const std::string stem = path.substr(0, path.size() - suffix.size());
  for (int64_t i = 0; i < count; ++i) {
    const std::string part =
        stem + GgufSplitSuffix(static_cast<uint64_t>(i), static_cast<uint64_t>(count));
    if (!PathExists(part)) {
      return Error(ErrorCode::kShardMissing, fmt::format("part {} of {} is missing", i + 1, count))
          .Hint("download the missing file into the same folder")
          .InFile(part);
    }
    PW_ASSIGN(GgufFile file, GgufFile::Open(part));
    PW_TRY(CheckSplit(file, i, count));
    files.push_back(std::move(file));
  }
  PW_TRY(CheckTensors(files));
  return files;
}

}  // namespace pennyweight
