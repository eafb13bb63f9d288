// The GGUF container: header, metadata, tensor list. Names and row order are the file's own;
// formats/gguf_model.cc turns them into Hugging Face's.
//
// Layout (little-endian): "GGUF", u32 version, i64 tensors, i64 keys; per key a string, an i32 type
// and the value; per tensor a string, u32 rank, i64 dims (innermost first), i32 type, u64 offset
// from the start of the data, which begins at the next multiple of general.alignment.
// A string is a u64 length and that many bytes; an array is an i32 type, a u64 count, the elements.
// Source: the GGUF specification in ggml's docs/gguf.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "formats/gguf_types.h"
#include "lib/file.h"
#include "lib/result.h"
#include "lib/tensor.h"

namespace pennyweight {

// One key of the metadata. Its value stays encoded: GgufFile's accessors decode it.
struct GgufEntry {
  std::string key;
  GgufType type = GgufType::kU8;
  GgufType element = GgufType::kU8;  // kArray: type of the elements; else as `type`
  uint64_t count = 1;                // kArray: number of elements; else 1
  uint64_t offset = 0;               // bytes from the start of the file to the first element
  uint64_t bytes = 0;                // of all elements, without type and count
};

// One tensor as the file lists it, checked: its bytes lie inside the file.
struct GgufTensor {
  std::string name;
  Encoding encoding;
  Shape shape;          // outermost first; [] for a rank of 0
  uint64_t offset = 0;  // bytes from the start of the file
  uint64_t bytes = 0;   // without padding
};

// An opened file. Immutable and thread-safe.
class GgufFile {
 public:
  // Reads and checks the whole header; no tensor data. Versions 2 and 3, little-endian.
  // Errors: kTruncated (also for counts, lengths and tensors that the file is too short for),
  // kInvalidHeader (magic, version, types, alignment), kUnsupported (version 1, newer ones,
  // big-endian, nested arrays), kDuplicateKey, kInvalidName, kUnknownDtype, kInvalidTensor,
  // kInvalidOffset (overlap), kMisaligned, kOverflow, kLimit; those of ReadFile::Open.
  static Result<GgufFile> Open(const std::string& path);

  const ReadFile& file() const { return file_; }
  uint32_t version() const { return version_; }
  uint64_t alignment() const { return alignment_; }
  const std::vector<GgufEntry>& entries() const { return entries_; }
  // By offset.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  // What is odd but does no harm: holes, trailing bytes, booleans other than 0 and 1, long names.
  const std::vector<std::string>& notes() const { return notes_; }

  // nullptr when there is no such key.
  const GgufEntry* Find(std::string_view key) const;
  // nullptr when there is no such tensor.
  const GgufTensor* FindTensor(std::string_view name) const;

  // Scalars; nullopt when the value is of another kind. Integers: of any width that fits.
  std::optional<int64_t> AsInteger(const GgufEntry& entry) const;
  std::optional<double> AsDouble(const GgufEntry& entry) const;  // any number
  std::optional<bool> AsBool(const GgufEntry& entry) const;
  std::optional<std::string_view> AsString(const GgufEntry& entry) const;
  // Arrays; nullopt when the value is no array of that kind.
  std::optional<std::vector<std::string_view>> AsStrings(const GgufEntry& entry) const;
  std::optional<std::vector<double>> AsDoubles(const GgufEntry& entry) const;
  std::optional<std::vector<int64_t>> AsIntegers(const GgufEntry& entry) const;

  // The encoded elements, as a writer can copy them.
  std::string_view Payload(const GgufEntry& entry) const;
  // For people: strings as UTF-8 with other bytes escaped, long arrays as "[32000 strings]".
  std::string Printable(const GgufEntry& entry) const;

 private:
  friend class GgufParser;
  explicit GgufFile(ReadFile file) : file_(std::move(file)) {}

  ReadFile file_;
  std::vector<uint8_t> header_;  // the start of the file, as it was when it was checked
  uint32_t version_ = 0;
  uint64_t alignment_ = kGgufDefaultAlignment;
  std::vector<GgufEntry> entries_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string, size_t> key_index_;
  std::unordered_map<std::string, size_t> tensor_index_;
  std::vector<std::string> notes_;
};

// All files of one model, in order: one, or the `split.count` of a split one, whichever of them is
// named. The first holds the metadata. Errors: those of GgufFile::Open, kShardMissing,
// kShardMismatch, kDuplicateKey (a tensor in two files), kLimit.
Result<std::vector<GgufFile>> OpenGgufFiles(const std::string& path);

// "-00001-of-00003.gguf" for number 0 of 3: how the name of a split model's file ends.
std::string GgufSplitSuffix(uint64_t number, uint64_t count);

}  // namespace pennyweight
