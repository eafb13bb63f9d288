#include "formats/shard_index.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "lib/file.h"
#include "lib/json.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kPytorchSingle = "pytorch_model.bin";
constexpr const char* kPytorchIndex = "pytorch_model.bin.index.json";

bool IsPlainName(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

bool IsInside(const fs::path& path, const fs::path& root) {
  return std::mismatch(root.begin(), root.end(), path.begin(), path.end()).first == root.end();
}

// A link out of the folder would let a downloaded folder read any file. In the cache of Hugging
// Face
// (<model>/snapshots/<revision>/) the files are links into <model>/blobs/.
Status CheckInsideFolder(const std::string& directory, const std::string& path) {
  std::error_code error;
  fs::path root = fs::canonical(directory, error);
  if (error) return Error(ErrorCode::kIo, error.message()).InFile(directory);
  const fs::path target = fs::canonical(path, error);
  if (error) return Error(ErrorCode::kIo, error.message()).InFile(path);
  if (root.parent_path().filename() == "snapshots") root = root.parent_path().parent_path();
  if (IsInside(target, root)) return OkStatus();
  return Error(ErrorCode::kBadPath, "this shard is a link to a file outside of the model's folder")
      .Hint(fmt::format("copy {} into the folder", target.string()))
      .InFile(path);
}

Result<WeightFiles> ParseIndex(const std::string& directory, const std::string& path) {
  WeightFiles files;
  files.index = path;
  PW_ASSIGN(const Json json, Json::ParseFile(path));
  const Json* map = json.Find("weight_map");
  if (map == nullptr || !map->is_object() || map->members().empty()) {
    return Error(ErrorCode::kInvalidHeader, "\"weight_map\" must be an object that is not empty");
  }
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : map->members()) {
    if (!shard.is_string()) {
      return Error(ErrorCode::kInvalidHeader, "the shard must be a string").InTensor(tensor);
    }
    if (!IsPlainName(shard.str())) {
      return Error(ErrorCode::kBadPath,
                   fmt::format("the shard \"{:.200}\" is not a plain file name", shard.str()))
          .InTensor(tensor);
    }
    shards.insert(shard.str());
    files.shard_of.emplace(tensor, shard.str());
  }
  if (shards.size() > limits::kShards) {
    return Error(ErrorCode::kLimit,
                 fmt::format("{} shards; at most {} are taken", shards.size(), limits::kShards));
  }
  for (const std::string& shard : shards) {
    const std::string shard_path = JoinPath(directory, shard);
    if (!PathExists(shard_path)) {
      return Error(ErrorCode::kShardMissing,
                   fmt::format("the index names the shard \"{}\", which is not there", shard))
          .Hint("download the shard into the folder")
          .InFile(shard_path);
    }
    PW_TRY(CheckInsideFolder(directory, shard_path));
    files.paths.push_back(shard_path);
  }
  return files;
}

bool EndsWith(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

Error NoWeights(const std::vector<std::string>& names, const std::string& directory) {
  for (const std::string& name : names) {
    if (EndsWith(name, ".bin") || EndsWith(name, ".pt") || EndsWith(name, ".pth")) {
      return Error(ErrorCode::kUnknownFormat,
                   fmt::format("the folder has neither safetensors nor {} nor its index",
                               kPytorchSingle))
          .Hint(fmt::format("if it holds the weights, give the file itself: {}",
                            JoinPath(directory, name)))
          .InFile(JoinPath(directory, name));
    }
  }
  for (const std::string& name : names) {
    if (!EndsWith(name, ".gguf")) continue;
    return Error(ErrorCode::kUnknownFormat, "the folder has GGUF files, not safetensors")
        .Hint(fmt::format("give the file itself: {}", JoinPath(directory, name)))
        .InFile(directory);
  }
  return Error(ErrorCode::kNotFound,
               "there is neither a safetensors file nor a PyTorch checkpoint in the folder")
      .InFile(directory);
}

// The file `single`, or the shards of `index`; no path when neither is there.
Result<WeightFiles> FindNamed(const std::string& directory, const char* single, const char* index) {
  WeightFiles files;
  const std::string file = JoinPath(directory, single);
  if (PathExists(file)) {
    files.paths.push_back(file);
    return files;
  }
  const std::string path = JoinPath(directory, index);
  if (!PathExists(path)) return files;
  Result<WeightFiles> sharded = ParseIndex(directory, path);
  if (!sharded.ok()) return std::move(sharded).TakeError().InFile(path);
  return sharded;
}

}  // namespace

Result<WeightFiles> FindWeightFiles(const std::string& directory) {
  // As transformers does: safetensors win over PyTorch, a single file wins over an index.
  PW_ASSIGN(WeightFiles files, FindNamed(directory, kSingle, kIndex));
  if (!files.paths.empty()) return files;
  PW_ASSIGN(std::vector<std::string> names, ListDirectory(directory));
  for (const std::string& name : names) {
    if (EndsWith(name, ".safetensors")) files.paths.push_back(JoinPath(directory, name));
  }
  if (files.paths.size() > 1) {
    return Error(ErrorCode::kShardMissing,
                 fmt::format("the folder has {} safetensors files and no {}", files.paths.size(),
                             kIndex))
        .Hint("download the index, or give one file as the input")
        .InFile(JoinPath(directory, kIndex));
  }
  if (!files.paths.empty()) return files;
  PW_ASSIGN(files, FindNamed(directory, kPytorchSingle, kPytorchIndex));
  if (files.paths.empty()) return NoWeights(names, directory);
  files.pytorch = true;
  return files;
}

Status CheckAgainstIndex(const WeightFiles& files, const std::vector<TensorInfo>& tensors) {
  if (files.index.empty()) return OkStatus();
  size_t found = 0;
  for (const TensorInfo& info : tensors) {
    const auto mapped = files.shard_of.find(info.stored_name);
    const std::string shard = BaseName(info.file);
    if (mapped == files.shard_of.end() || mapped->second != shard) {
      const std::string said =
          mapped == files.shard_of.end() ? "does not list it" : "puts it into " + mapped->second;
      return Error(ErrorCode::kShardMismatch,
                   fmt::format("the tensor is in this shard, but the index {} {}",
                               BaseName(files.index), said))
          .InFile(info.file)
          .InTensor(info.stored_name)
          .At(info.offset);
    }
    ++found;
  }
  if (found == files.shard_of.size()) return OkStatus();
  // Names are unique in both, so some name of the index is in no shard; the first one is reported.
  std::set<std::string_view> missing;
  for (const auto& [name, shard] : files.shard_of) missing.insert(name);
  for (const TensorInfo& info : tensors) missing.erase(info.stored_name);
  const std::string name(*missing.begin());
  return Error(ErrorCode::kShardMismatch,
               fmt::format("the index puts the tensor into {}, where it is not",
                           files.shard_of.at(name)))
      .InFile(files.index)
      .InTensor(name);
}

Status RequireUniqueNames(const std::vector<TensorInfo>& tensors) {
  std::unordered_map<std::string_view, size_t> seen;
  seen.reserve(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& info = tensors[i];
    const auto [place, fresh] = seen.emplace(info.name, i);
    if (fresh) continue;
    return Error(ErrorCode::kShardMismatch,
                 fmt::format("the tensor is also in {}", tensors[place->second].file))
        .InFile(info.file)
        .InTensor(info.name)
        .At(info.offset);
  }
  return OkStatus();
}

}  // namespace pennyweight
