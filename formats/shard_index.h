// Which weight files make up a Hugging Face folder, by its index or by their names.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/result.h"
#include "lib/tensor_source.h"

namespace pennyweight {

// Where an index puts a tensor.
struct IndexedTensor {
  std::string name;
  uint32_t shard = 0;  // index into WeightFiles::paths
};

// The weight files of a folder.
struct WeightFiles {
  std::vector<std::string> paths;      // in the order of their names
  std::string index;                   // path of the index; empty when there is none
  bool pytorch = false;                // PyTorch checkpoints, not safetensors
  std::vector<IndexedTensor> indexed;  // of the index, by name
};

// model.safetensors if it is there, else the shards of model.safetensors.index.json, else the only
// safetensors file, else pytorch_model.bin, else the shards of pytorch_model.bin.index.json.
// Errors: kNotFound, kUnknownFormat (only other kinds of weights are there), kInvalidHeader and
// kDuplicateKey (index), kBadPath (a shard's name leaves the folder, also by a link; the links of
// the Hugging Face cache into its own folder are followed), kShardMissing.
Result<WeightFiles> FindWeightFiles(const std::string& directory);

// Every tensor of the index must be in its shard, and every tensor of a shard in the index.
// "total_size" is not looked at: it is wrong in many good files. Errors: kShardMismatch.
Status CheckAgainstIndex(const WeightFiles& files, const std::vector<TensorInfo>& tensors);

// Two files may not hold the same name: which one is meant would be a guess.
// Errors: kShardMismatch, naming both files.
Status RequireUniqueNames(const std::vector<TensorInfo>& tensors);

}  // namespace pennyweight
