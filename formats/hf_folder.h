// A Hugging Face folder being written: weights in shards, then companions, config.json last, and
// the whole opened again before it is renamed into place.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "formats/hf_output.h"
#include "formats/shard_writer.h"
#include "formats/sinks.h"

namespace pennyweight {

class HfFolder {
 public:
  // Makes the temporary folder and every weight file in it. Precondition: options.model is set.
  // Errors: those of CheckOutputPath, AtomicDirectory::Create and ShardWriter::InDirectory.
  static Result<std::unique_ptr<HfFolder>> Create(const SinkOptions& options,
                                                  const std::vector<TensorPart>& parts);

  ShardWriter& shards() { return *shards_; }

  // Seals the weights, adds index, companions (for a model without a folder, tokenizer files made
  // from its vocabulary where that can be) and config.json, re-reads all of it, opens the folder
  // with the ordinary reader and compares its list with `announced`.
  // Errors: those of ShardWriter::Seal and OutputConfig, kVerifyFailed.
  Status Seal(const std::vector<OutputTensor>& announced, const ConfigChanges& changes);
  Status Commit();
  // The temporary folder stays for a later run.
  void Keep();

  // After Seal: of all files in the folder.
  uint64_t TotalBytes() const { return total_bytes_; }

 private:
  HfFolder() = default;
  // The text of config.json; empty when there is none and none is wanted.
  Result<std::string> ConfigText(const ConfigChanges& changes) const;
  // A small file, read back and compared.
  Status AddFile(const std::string& name, const std::string& contents);

  const Model* model_ = nullptr;
  bool weights_only_ = false;
  bool as_stored_ = false;
  const FoldRecord* folds_ = nullptr;
  bool measure_ = false;  // neither directory_ nor files
  // The shards are files inside the folder: they are destroyed before it.
  std::unique_ptr<AtomicDirectory> directory_;
  std::unique_ptr<ShardWriter> shards_;
  uint64_t total_bytes_ = 0;
};

}  // namespace pennyweight
