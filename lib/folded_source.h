// A source whose chosen tensors are multiplied by rows and columns on the way: the same function,
// written with other numbers. What one tensor is multiplied by, another one is divided by.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "lib/result.h"
#include "lib/tensor_source.h"

namespace pennyweight {

// Element [r, c] of a matrix becomes value * row_scale[r] * col_scale[c]. Empty: none. A vector
// (norm, bias) is one row: it has column scales.
struct Fold {
  std::vector<float> row_scale;  // [rows], or empty
  std::vector<float> col_scale;  // [cols], or empty

  bool empty() const { return row_scale.empty() && col_scale.empty(); }
};

// The fold that does `first`, then `second`. Both are of the same tensor.
Fold Compose(const Fold& first, const Fold& second);
// The fold that undoes `fold`: 1 / scale, to f32 rounding. No scale is zero.
Fold Inverse(const Fold& fold);
// values[rows, cols], rows [row, row + rows) of the tensor, become multiplied.
void ApplyFold(const Fold& fold, int64_t row, int64_t rows, int64_t cols, float* values);

// Decoded rows of a tensor of another source: quant's ReadFloatRows. lib itself decodes nothing.
using FloatRows = std::function<Status(const TensorSource& source, size_t index, int64_t row,
                                       int64_t count, float* out)>;

class FoldedSource : public TensorSource {
 public:
  // `inner` outlives this.
  FoldedSource(const TensorSource* inner, FloatRows read);
  FoldedSource(std::unique_ptr<TensorSource> inner, FloatRows read);

  // Replaces the fold of tensor `index`; an empty one takes it away. The tensor is listed as plain
  // F32 while it has one (name, shape, file, offset and bytes stay those of the stored tensor).
  // Not while others read. Precondition: the scales fit the shape.
  void SetFold(size_t index, Fold fold);
  // nullptr: none.
  const Fold* FoldOf(size_t index) const;

  const TensorSource& inner() const { return *inner_; }

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  Status ReadRows(size_t index, int64_t row, int64_t count, EncodedTensor* out) const override;
  Status ReadColumns(size_t index, int64_t row, int64_t count, int64_t col, int64_t cols,
                     EncodedTensor* out) const override;
  std::string_view format() const override { return inner_->format(); }
  const std::map<std::string, std::string>& metadata() const override { return inner_->metadata(); }
  const std::vector<std::string>& files() const override { return inner_->files(); }

 private:
  std::unique_ptr<TensorSource> owned_;
  const TensorSource* inner_;
  FloatRows read_;
  std::vector<TensorInfo> tensors_;
  std::vector<Fold> folds_;  // by tensor
};

}  // namespace pennyweight
