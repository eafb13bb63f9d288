// The header of a GGUF v3 file: metadata and tensor list, laid out before any data is written.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "formats/gguf_reader.h"
#include "lib/result.h"

namespace pennyweight {

class GgufHeader {
 public:
  // Keys in the order of the calls. Precondition: a key is added once (see Has).
  void AddU16(std::string_view key, uint16_t value);
  void AddU32(std::string_view key, uint32_t value);
  void AddI32(std::string_view key, int32_t value);
  void AddF32(std::string_view key, float value);
  void AddBool(std::string_view key, bool value);
  void AddString(std::string_view key, std::string_view value);
  void AddStrings(std::string_view key, const std::vector<std::string_view>& values);
  void AddF32s(std::string_view key, const std::vector<float>& values);
  void AddI32s(std::string_view key, const std::vector<int32_t>& values);
  // A string that is known later: `bytes` spaces. Once in a header.
  void AddRoom(std::string_view key, uint64_t bytes);
  // A key of another file, byte by byte.
  void AddCopy(const GgufFile& file, const GgufEntry& entry);
  bool Has(std::string_view key) const;

  // A power of two, in the place of the format's 32: a reader learns it from
  // general.alignment, which is the caller's to add. Precondition: no tensor was added yet.
  void SetAlignment(uint64_t alignment) { alignment_ = alignment; }

  // Tensors in the order of the file; offsets follow each other, aligned. Errors: kUnsupported (no
  // GGUF type, rank above 4), kInvalidName (longer than llama.cpp takes), kDuplicateKey,
  // kInvalidTensor (rows do not divide into blocks, a dimension of 0), kOverflow.
  Status AddTensor(std::string_view name, const Encoding& encoding, const Shape& shape);

  // Fixes the layout: offsets of tensors() become absolute. Call once, after everything is added.
  Status Finish();

  // After Finish: the text of AddRoom's string, with spaces behind it. False when it is longer than
  // the room, or there is none.
  bool FillRoom(std::string_view text);

  // After Finish: the file's first bytes, up to the first tensor; the tensors; the file's length
  // with the padding behind the last tensor.
  const std::string& bytes() const { return bytes_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  uint64_t file_bytes() const { return file_bytes_; }

 private:
  void StartEntry(std::string_view key, GgufType type);
  void StartArray(std::string_view key, GgufType element, uint64_t count);

  std::string entries_;
  uint64_t room_ = 0;  // in entries_, then in bytes_
  uint64_t room_bytes_ = 0;
  uint64_t entry_count_ = 0;
  std::unordered_map<std::string, bool> keys_;
  std::unordered_map<std::string, bool> names_;
  std::vector<GgufTensor> tensors_;  // offsets relative to the data until Finish
  uint64_t alignment_ = kGgufDefaultAlignment;
  uint64_t data_bytes_ = 0;
  std::string bytes_;
  uint64_t file_bytes_ = 0;
};

}  // namespace pennyweight
