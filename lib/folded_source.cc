#include "lib/folded_source.h"

#include <utility>

namespace pennyweight {
namespace {

std::vector<float> Product(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.empty()) return b;
  std::vector<float> out = a;
  for (size_t i = 0; i < b.size(); ++i) out[i] *= b[i];
  return out;
}

std::vector<float> Reciprocal(const std::vector<float>& scale) {
  std::vector<float> out = scale;
  for (float& s : out) s = 1.0f / s;
  return out;
}

}  // namespace

Fold Compose(const Fold& first, const Fold& second) {
  return {Product(first.row_scale, second.row_scale), Product(first.col_scale, second.col_scale)};
}

Fold Inverse(const Fold& fold) { return {Reciprocal(fold.row_scale), Reciprocal(fold.col_scale)}; }

void ApplyFold(const Fold& fold, int64_t row, int64_t rows, int64_t cols, float* values) {
  for (int64_t r = 0; r < rows; ++r) {
    float* line = values + r * cols;
    if (!fold.col_scale.empty()) {
      const float* scale = fold.col_scale.data();
      for (int64_t c = 0; c < cols; ++c) line[c] *= scale[c];
    }
    if (!fold.row_scale.empty()) {
      const float scale = fold.row_scale[static_cast<size_t>(row + r)];
      for (int64_t c = 0; c < cols; ++c) line[c] *= scale;
    }
  }
}

FoldedSource::FoldedSource(const TensorSource* inner, FloatRows read)
    : inner_(inner), read_(std::move(read)), tensors_(inner->tensors()), folds_(tensors_.size()) {}

FoldedSource::FoldedSource(std::unique_ptr<TensorSource> inner, FloatRows read)
    : FoldedSource(inner.get(), std::move(read)) {
  owned_ = std::move(inner);
}

void FoldedSource::SetFold(size_t index, Fold fold) {
  tensors_[index].encoding =
      fold.empty() ? inner_->tensors()[index].encoding : Encoding::Plain(DType::kF32);
  folds_[index] = std::move(fold);
}

const Fold* FoldedSource::FoldOf(size_t index) const {
  return folds_[index].empty() ? nullptr : &folds_[index];
}

Status FoldedSource::ReadRows(size_t index, int64_t row, int64_t count, EncodedTensor* out) const {
  const Fold& fold = folds_[index];
  if (fold.empty()) return inner_->ReadRows(index, row, count, out);
  const int64_t cols = tensors_[index].cols();
  out->Resize(tensors_[index].encoding, count, cols);
  auto* values = reinterpret_cast<float*>(out->data.data());
  PW_TRY(read_(*inner_, index, row, count, values));
  ApplyFold(fold, row, count, cols, values);
  return OkStatus();
}

Status FoldedSource::ReadColumns(size_t index, int64_t row, int64_t count, int64_t col,
                                 int64_t cols, EncodedTensor* out) const {
  if (folds_[index].empty()) return inner_->ReadColumns(index, row, count, col, cols, out);
  return TensorSource::ReadColumns(index, row, count, col, cols, out);
}

}  // namespace pennyweight
