// The head of a safetensors file: u64 header length, JSON header, and where each tensor's bytes go.
// Source: the format section of the safetensors README. Tensor data follows in the order given,
// without holes; the header is padded with spaces so that data begins at a multiple of 8 bytes.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lib/dtype.h"
#include "lib/result.h"
#include "lib/tensor.h"

namespace pennyweight {

// One entry of a header.
struct StoredTensor {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
};

struct SafetensorsLayout {
  std::string head;               // length, header and padding: the first bytes of the file
  std::vector<uint64_t> offsets;  // of each tensor, bytes from the start of the file
  std::vector<uint64_t> bytes;    // of each tensor
  uint64_t file_bytes = 0;
};

// Bytes of a tensor. Errors: kOverflow; kInvalidTensor when sub-byte elements do not fill bytes.
Result<uint64_t> StoredBytes(const StoredTensor& tensor);

// `metadata` becomes __metadata__, with {"format":"pt"} added: PyTorch clients insist on it.
// Errors: those of StoredBytes with the tensor named; kDuplicateKey; kInvalidName (empty, too long,
// with a NUL, or "__metadata__"); kHeaderTooLarge beyond the format's 100,000,000 bytes.
Result<SafetensorsLayout> LayOutSafetensors(const std::vector<StoredTensor>& tensors,
                                            const std::map<std::string, std::string>& metadata);

}  // namespace pennyweight
