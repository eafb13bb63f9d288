// Where tensors come from. Implemented by each container in formats/ and by transforms.
#pragma once

#include <map>
#include <string_view>
#include <vector>

#include "lib/result.h"
#include "lib/tensor.h"

namespace pennyweight {

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  // All tensors, listed before any byte of their data is read. Order: by file, then offset.
  virtual const std::vector<TensorInfo>& tensors() const = 0;

  // Reads rows [row, row + count) of tensor `index` as stored. Thread-safe. Errors: kIo, kTruncated
  // (the file shrank), with file and tensor named. Precondition: the range is inside the tensor.
  virtual Status ReadRows(size_t index, int64_t row, int64_t count, EncodedTensor* out) const = 0;

  // Columns [col, col + cols) of the same rows, of a kPlain tensor of whole bytes: `out` is a tile
  // of `cols` columns. Thread-safe; errors as ReadRows. Here: reads whole rows and cuts them, a
  // bounded number at a time.
  virtual Status ReadColumns(size_t index, int64_t row, int64_t count, int64_t col, int64_t cols,
                             EncodedTensor* out) const;

  // "safetensors", "gguf": for people.
  virtual std::string_view format() const = 0;
  // Free metadata of the files: key to printable value.
  virtual const std::map<std::string, std::string>& metadata() const = 0;
  // Every file that was opened, for inspect and for "output is an input".
  virtual const std::vector<std::string>& files() const = 0;

  // Index of the tensor with this (canonical) name, or -1.
  int64_t Find(std::string_view name) const;
};

}  // namespace pennyweight
