// NaN and infinity in weights: where they are, and a source that reads as if they were not there.
// No scale can be fitted to them, so that quantizing refuses them unless it is told otherwise.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "lib/error.h"
#include "lib/tensor.h"
#include "lib/tensor_source.h"

namespace pennyweight {

// Replaces every NaN and infinity of w[count] by zero; returns how many there were.
int64_t ReplaceNonFinite(float* w, int64_t count);

// An error of code kNonFinite about w[rows, cols], whose first row is row `first_row` of its
// tensor, with the place of the first such value in the tensor: element, row and column, from 0.
// Any other error is given back as it is.
Error LocateNonFinite(Error error, const float* w, int64_t rows, int64_t cols, int64_t first_row);

// Casts w[rows, cols] to a plain float encoding, NaN and infinity included.
void CastTile(const Encoding& encoding, const float* w, int64_t rows, int64_t cols,
              EncodedTensor* out);

// Tensors that are marked read as zero wherever they hold NaN or infinity; all others pass as they
// are. A marked tensor that is not plain is listed as f32 and decoded on the way.
class FiniteSource : public TensorSource {
 public:
  // `marked`: one per tensor. Only decodable tensors may be marked.
  FiniteSource(std::unique_ptr<TensorSource> source, std::vector<char> marked);

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  std::string_view format() const override { return source_->format(); }
  const std::map<std::string, std::string>& metadata() const override {
    return source_->metadata();
  }
  const std::vector<std::string>& files() const override { return source_->files(); }
  Status ReadRows(size_t index, int64_t row, int64_t count, EncodedTensor* out) const override;

  // Values replaced in tensor `index`, each counted once however often it was read. Thread-safe.
  int64_t replaced(size_t index) const;

 private:
  std::unique_ptr<TensorSource> source_;
  std::vector<char> marked_;
  std::vector<TensorInfo> tensors_;
  mutable std::mutex mutex_;
  mutable std::vector<std::map<int64_t, int64_t>> found_;  // by tensor: how many in which row
};

}  // namespace pennyweight
