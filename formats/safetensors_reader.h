// Reads safetensors: the header rules of one file, and a TensorSource over one or more files.
//
// Layout (github.com/huggingface/safetensors): u64 N, little-endian; N bytes of JSON; the tensors'
// bytes, back to back. Offsets in the header count from the end of the JSON.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lib/file.h"
#include "lib/result.h"
#include "lib/tensor_source.h"

namespace pennyweight {

// What the header of one file says, checked against the file's size.
struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // by offset; `file` is empty, `offset` is from the file's start
  std::map<std::string, std::string> metadata;  // __metadata__
  std::vector<std::string> notes;               // what is odd but does no harm
};

// Checks a header's text against every rule of the format. `json` begins at byte 8 of a file of
// `file_size` bytes. Tensor names are unique, byte ranges cover the rest of the file exactly.
// Errors: kInvalidHeader, kDuplicateKey, kLimit, kInvalidName, kMetadataNotString, kUnknownDtype,
// kOverflow, kMisaligned (a sub-byte tensor that ends inside a byte), kInvalidTensor (byte range
// and shape differ), kInvalidOffset (hole, overlap, reversed), kTruncated (names the first tensor
// that is cut and the offset of its first missing byte), kIncompleteBuffer (bytes behind the last
// one).
Result<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json, uint64_t file_size);

// Reads and checks the header of an open file. Errors: those of ParseSafetensorsHeader,
// kHeaderTooSmall (under 8 bytes), kHeaderTooLarge (looked at before the file's end is),
// kTruncated.
Result<SafetensorsHeader> ReadSafetensorsHeader(const ReadFile& file);

// The tensors of one or more safetensors files. Thread-safe.
class SafetensorsSource : public TensorSource {
 public:
  // Opens `paths` in this order. Errors: those of DetectFormat and ReadSafetensorsHeader;
  // kShardMismatch when two files hold a tensor of the same name.
  static Result<std::unique_ptr<SafetensorsSource>> Open(const std::vector<std::string>& paths);

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  // Errors also: kUnsupported for rows of a sub-byte dtype that end inside a byte.
  Status ReadRows(size_t index, int64_t row, int64_t count, EncodedTensor* out) const override;
  // One read per row: what is not asked for is not read.
  Status ReadColumns(size_t index, int64_t row, int64_t count, int64_t col, int64_t cols,
                     EncodedTensor* out) const override;
  std::string_view format() const override { return "safetensors"; }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  const std::vector<std::string>& files() const override { return paths_; }
  // What is odd but does no harm, by file.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  SafetensorsSource() = default;
  Status Add(const std::string& path);
  // The first value of a key stands under its name, another file's other value under "file: key".
  void AddMetadata(const std::string& path, std::map<std::string, std::string> metadata);

  std::vector<ReadFile> files_;
  std::vector<std::string> paths_;
  std::vector<TensorInfo> tensors_;
  std::vector<size_t> file_of_;  // by tensor: index into files_
  std::map<std::string, std::string> metadata_;
  std::vector<std::string> notes_;
};

}  // namespace pennyweight
