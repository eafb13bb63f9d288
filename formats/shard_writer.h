// Safetensors files being written: one file, or a folder's model.safetensors, or its shards with an
// index. Shared by the plain and the compressed-tensors sink, which say what parts a tensor has.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "formats/safetensors_writer.h"
#include "lib/output_file.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"

namespace pennyweight {

// A stored tensor and the announced tensor (index of Begin) that it is a part of. The parts of one
// tensor stand next to each other in the list, and go to the same shard.
struct TensorPart {
  StoredTensor stored;
  size_t owner = 0;
};

class ShardWriter {
 public:
  // One file at `path` that replaces an existing one only with `force`. `journal` may be null. With
  // `measure` no file is made (SinkOptions::measure).
  // Errors: those of LayOutSafetensors and OutputFile::Create.
  static Result<std::unique_ptr<ShardWriter>> OneFile(
      const std::string& path, bool force, const std::vector<TensorPart>& parts,
      const std::map<std::string, std::string>& metadata, Journal* journal, bool measure = false);

  // Files inside `directory`: model.safetensors, or model-00001-of-0000N.safetensors. A shard is
  // closed before it passes `shard_bytes` of tensors; a tensor larger than that has one of its own.
  // Errors also: kLimit when more files would have to be open at once than the system lets.
  static Result<std::unique_ptr<ShardWriter>> InDirectory(
      const std::string& directory, uint64_t shard_bytes, const std::vector<TensorPart>& parts,
      const std::map<std::string, std::string>& metadata, Journal* journal, bool measure = false);

  // Bytes [offset, offset + bytes) of part `part`. Thread-safe.
  Status Write(size_t part, uint64_t offset, const void* from, uint64_t bytes);
  // A piece of each of `lines` lines of part `part`: see OutputFile::WriteLines. Thread-safe.
  Status WriteLines(size_t part, uint64_t offset, uint64_t stride, uint64_t lines, const void* from,
                    uint64_t bytes);

  // Checks that every byte of every part was written once, adds the headers, syncs, re-opens and
  // compares hashes.
  // Errors: kVerifyFailed with file and tensor, kIo.
  Status Seal();

  // Renames the files to their names. Only after a successful Seal.
  Status Commit();
  // The temporary files stay for a later run.
  void Keep();

  uint64_t PartBytes(size_t part) const;
  // Of all files.
  uint64_t TotalBytes() const;
  // Path of the only file's temporary form; empty when there are several.
  std::string TempPath() const;
  // The text of model.safetensors.index.json; empty when there is one file only.
  std::string Index() const;

 private:
  struct File {
    std::string name;
    std::unique_ptr<OutputFile> file;
    SafetensorsLayout layout;
  };
  struct Place {
    size_t file;
    size_t index;  // in the file's layout
  };

  ShardWriter() = default;
  // Creates the file `name` at `path`; `members` are the numbers of its parts.
  Status AddFile(const std::string& path, const std::string& name, bool force,
                 const std::vector<size_t>& members,
                 const std::map<std::string, std::string>& metadata, Journal* journal);

  bool measure_ = false;
  std::vector<TensorPart> parts_;
  std::vector<Place> places_;  // by part
  std::vector<File> files_;
};

// Whether `tile` is what rows [row, row + tile.rows) of `tensor` must look like: encoding, columns,
// sizes of its arrays, and the tile rule of TensorSink. Errors: kInvalidTensor.
Status CheckTile(const OutputTensor& tensor, int64_t row, const EncodedTensor& tile);

// All shards are open while they are written, and are again when the model is read.
// Errors: kLimit when the system lets this process open fewer.
Status CheckShardCount(size_t count);

}  // namespace pennyweight
