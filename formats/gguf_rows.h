// The order of rows in a GGUF tensor against the canonical (Hugging Face) one.
//
// What moves is a unit: a row of a matrix, or one element of a bias. Units move inside blocks of
// head_dim only; blocks of a quantized row lie along the columns, so encoded rows move as bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "lib/arch/family.h"
#include "lib/model_config.h"
#include "lib/result.h"
#include "lib/tensor.h"

namespace pennyweight {

// Reads exactly `bytes` bytes at `offset` from the start of the tensor.
using TensorBytesReader = std::function<Status(uint64_t offset, void* to, uint64_t bytes)>;
using TensorBytesWriter = std::function<Status(uint64_t offset, const void* from, uint64_t bytes)>;

class RowOrder {
 public:
  RowOrder() = default;  // rows stand where they are

  // For a tensor of `shape` in `encoding`. Errors: kConfigInvalid when its rows are not `heads` (q)
  // or `kv_heads` (k) heads of head_dim; kUnsupported for a block-quantized bias.
  static Result<RowOrder> Make(RowMap map, const ModelConfig& config, const Encoding& encoding,
                               const Shape& shape);

  // Canonical rows [row, row + count) of `row_bytes` each, to `to`. A row of a bias is all of it.
  Status Read(const TensorBytesReader& read, uint64_t row_bytes, int64_t row, int64_t count,
              uint8_t* to) const;
  // The way back: every byte is written once; neighbouring ones in one call where they stand so.
  Status Write(const TensorBytesWriter& write, uint64_t row_bytes, int64_t row, int64_t count,
               const uint8_t* from) const;

 private:
  int64_t units_per_row_ = 1;
  int64_t block_ = 1;            // units that move among themselves
  std::vector<int64_t> stored_;  // by canonical unit; empty: all stand where they are
};

}  // namespace pennyweight
