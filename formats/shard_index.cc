#include "formats/shard_index.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <numeric>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>

#include "lib/allowance.h"
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

constexpr uint64_t kShardBytes = 512;  // a shard's name and path

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

// The "weight_map": tensors by name, and the names of the shards, which the tensors number.
Status ParseWeightMap(const std::string& text, std::vector<IndexedTensor>* tensors,
                      std::vector<std::string>* shards) {
  Allowance allowance(text.size());
  std::map<std::string, uint32_t, std::less<>> numbers;
  const auto add = [&](std::string tensor, const Json& shard) -> Status {
    if (!shard.is_string()) {
      return Error(ErrorCode::kInvalidHeader, "the shard must be a string").InTensor(tensor);
    }
    if (!IsPlainName(shard.str())) {
      return Error(ErrorCode::kBadPath,
                   fmt::format("the shard \"{:.200}\" is not a plain file name", shard.str()))
          .InTensor(tensor);
    }
    if (tensors->size() >= limits::kTensors ||
        !allowance.Take(3 * sizeof(IndexedTensor) + tensor.size())) {
      return Error(ErrorCode::kLimit, "the index lists far too many tensors for its size");
    }
    const auto [place, fresh] = numbers.emplace(shard.str(), static_cast<uint32_t>(numbers.size()));
    if (numbers.size() > limits::kShards || !allowance.Take(fresh ? 3 * kShardBytes : 0)) {
      return Error(ErrorCode::kLimit, fmt::format("more than {} shards", limits::kShards));
    }
    tensors->push_back({std::move(tensor), place->second});
    return OkStatus();
  };
  PW_TRY(Json::ParseMembers(text, "weight_map", add));
  if (tensors->empty()) {
    return Error(ErrorCode::kInvalidHeader, "\"weight_map\" must be an object that is not empty");
  }
  // Numbers in the order of the names.
  std::vector<uint32_t> rank(numbers.size());
  for (const auto& [name, number] : numbers) {
    rank[number] = static_cast<uint32_t>(shards->size());
    shards->push_back(name);
  }
  for (IndexedTensor& tensor : *tensors) tensor.shard = rank[tensor.shard];
  std::sort(tensors->begin(), tensors->end(),
            [](const IndexedTensor& a, const IndexedTensor& b) { return a.name < b.name; });
  for (size_t i = 1; i < tensors->size(); ++i) {
    if ((*tensors)[i].name != (*tensors)[i - 1].name) continue;
    return Error(ErrorCode::kDuplicateKey, "the index lists the tensor twice")
        .InTensor((*tensors)[i].name);
  }
  return OkStatus();
}

Result<WeightFiles> ParseIndex(const std::string& directory, const std::string& path) {
  WeightFiles files;
  files.index = path;
  std::vector<std::string> shards;
  {
    PW_ASSIGN(const std::string text, ReadWholeFile(path, limits::kJsonFileBytes));
    PW_TRY(ParseWeightMap(text, &files.indexed, &shards));
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

Error NoWeights(const std::vector<std::string>& names, const std::string& directory) {
  for (const std::string& name : names) {
    if (name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth")) {
      return Error(ErrorCode::kUnknownFormat,
                   fmt::format("the folder has neither safetensors nor {} nor its index",
                               kPytorchSingle))
          .Hint(fmt::format("if it holds the weights, give the file itself: {}",
                            JoinPath(directory, name)))
          .InFile(JoinPath(directory, name));
    }
  }
  for (const std::string& name : names) {
    if (!name.ends_with(".gguf")) continue;
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
    if (name.ends_with(".safetensors")) files.paths.push_back(JoinPath(directory, name));
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
  std::vector<bool> found(files.indexed.size(), false);
  for (const TensorInfo& info : tensors) {
    const auto mapped = std::lower_bound(
        files.indexed.begin(), files.indexed.end(), info.stored_name,
        [](const IndexedTensor& entry, const std::string& name) { return entry.name < name; });
    const bool listed = mapped != files.indexed.end() && mapped->name == info.stored_name;
    if (!listed || files.paths[mapped->shard] != info.file) {
      const std::string said =
          listed ? "puts it into " + BaseName(files.paths[mapped->shard]) : "does not list it";
      return Error(ErrorCode::kShardMismatch,
                   fmt::format("the tensor is in this shard, but the index {} {}",
                               BaseName(files.index), said))
          .InFile(info.file)
          .InTensor(info.stored_name)
          .At(info.offset);
    }
    found[static_cast<size_t>(mapped - files.indexed.begin())] = true;
  }
  const auto missing = std::find(found.begin(), found.end(), false);
  if (missing == found.end()) return OkStatus();
  const IndexedTensor& entry = files.indexed[static_cast<size_t>(missing - found.begin())];
  return Error(ErrorCode::kShardMismatch,
               fmt::format("the index puts the tensor into {}, where it is not",
                           BaseName(files.paths[entry.shard])))
      .InFile(files.index)
      .InTensor(entry.name);
}

Status RequireUniqueNames(const std::vector<TensorInfo>& tensors) {
  std::vector<uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  // Equal names in the order of their files.
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return std::tie(tensors[a].name, a) < std::tie(tensors[b].name, b);
  });
  for (size_t i = 1; i < order.size(); ++i) {
    const TensorInfo& first = tensors[order[i - 1]];
    const TensorInfo& info = tensors[order[i]];
    if (first.name != info.name) continue;
    return Error(ErrorCode::kShardMismatch, fmt::format("the tensor is also in {}", first.file))
        .InFile(info.file)
        .InTensor(info.name)
        .At(info.offset);
  }
  return OkStatus();
}

}  // namespace pennyweight
