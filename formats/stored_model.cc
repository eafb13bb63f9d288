// OpenStored of formats/readers.h: the tensors as the files list them.
#include <fmt/format.h>

#include <charconv>
#include <optional>

#include "formats/detect.h"
#include "formats/gguf_reader.h"
#include "formats/readers.h"
#include "formats/safetensors_reader.h"
#include "formats/shard_index.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

// The two numbers of "-00002-of-00005" before `suffix` at the end of a path, and what is before.
struct ShardName {
  std::string stem;
  size_t number = 0;  // from 1
  size_t count = 0;
};

std::optional<ShardName> ParseShardName(const std::string& path, std::string_view suffix) {
  constexpr size_t kDigits = 5;
  constexpr std::string_view kOf = "-of-";
  const size_t tail = 1 + kDigits + kOf.size() + kDigits + suffix.size();
  if (path.size() <= tail || !path.ends_with(suffix)) return std::nullopt;
  const char* text = path.data() + path.size() - tail;
  const char* count_at = text + 1 + kDigits + kOf.size();
  ShardName name;
  const auto number = std::from_chars(text + 1, text + 1 + kDigits, name.number);
  const auto count = std::from_chars(count_at, count_at + kDigits, name.count);
  if (text[0] != '-' || number.ptr != text + 1 + kDigits || count.ptr != count_at + kDigits ||
      std::string_view(text + 1 + kDigits, kOf.size()) != kOf || name.number < 1 ||
      name.number > name.count || name.count > limits::kShards) {
    return std::nullopt;
  }
  name.stem = path.substr(0, path.size() - tail);
  return name;
}

// A file, or all shards of the set that it is named as one of.
Result<std::vector<std::string>> ShardsOf(const std::string& path) {
  constexpr std::string_view kSuffix = ".safetensors";
  const auto named = ParseShardName(path, kSuffix);
  if (!named) return std::vector<std::string>{path};
  std::vector<std::string> paths;
  for (size_t i = 1; i <= named->count; ++i) {
    paths.push_back(fmt::format("{}-{:05}-of-{:05}{}", named->stem, i, named->count, kSuffix));
    if (PathExists(paths.back())) continue;
    return Error(ErrorCode::kShardMissing,
                 fmt::format("shard {} of {} is missing", i, named->count))
        .Hint("download the missing file into the same folder")
        .InFile(paths.back());
  }
  return paths;
}

Error NotStored(const std::string& path) {
  return Error(ErrorCode::kUnsupported, "PyTorch checkpoints are neither split nor joined")
      .Hint(fmt::format("pennyweight convert {} -o FOLDER --shard-size 5G", path))
      .InFile(path);
}

// The first file of the only split GGUF model in a folder, if there is one.
Result<std::optional<std::string>> FindSplitGguf(const std::string& directory) {
  PW_ASSIGN(const std::vector<std::string> names, ListDirectory(directory));
  std::optional<std::string> first;
  for (const std::string& name : names) {
    if (name.ends_with(".safetensors")) return std::optional<std::string>();
    const auto shard = ParseShardName(name, ".gguf");
    if (!shard || shard->number != 1) continue;
    if (first) {
      return Error(ErrorCode::kUsage,
                   fmt::format("the folder has several split models: {} and {}", *first, name))
          .Hint(fmt::format("give the first file of one: {}", JoinPath(directory, name)))
          .InFile(directory);
    }
    first = name;
  }
  if (!first) return std::optional<std::string>();
  return std::optional<std::string>(JoinPath(directory, *first));
}

Result<Model> OpenFolder(const std::string& directory) {
  PW_ASSIGN(const auto gguf, FindSplitGguf(directory));
  if (gguf) return OpenStoredGguf(*gguf);
  PW_ASSIGN(const WeightFiles files, FindWeightFiles(directory));
  if (files.pytorch) return NotStored(directory);
  Model model;
  model.path = directory;
  model.directory = directory;
  PW_ASSIGN(model.source, SafetensorsSource::Open(files.paths));
  PW_TRY(CheckAgainstIndex(files, model.source->tensors()));
  return model;
}

}  // namespace

Result<Model> OpenStored(const std::string& path) {
  if (IsDirectory(path)) return OpenFolder(path);
  PW_ASSIGN(const FileFormat format, DetectFormat(path));
  switch (format) {
    case FileFormat::kGguf:
      return OpenStoredGguf(path);
    case FileFormat::kPytorch:
      return NotStored(path);
    case FileFormat::kSafetensors:
      break;
  }
  PW_ASSIGN(const std::vector<std::string> paths, ShardsOf(path));
  Model model;
  model.path = path;
  PW_ASSIGN(model.source, SafetensorsSource::Open(paths));
  return model;
}

}  // namespace pennyweight
