#include "lib/tensor.h"

#include <cassert>

#include "lib/aligned_buffer.h"
#include "lib/checked.h"

namespace pennyweight {

std::optional<int64_t> ElementCount(const Shape& shape) {
  // A zero does not excuse the other dimensions: [2^62, 4, 0] has no elements, but its row count
  // does not fit either.
  int64_t product = 1;
  bool empty = false;
  for (const int64_t dimension : shape) {
    if (dimension < 0) return std::nullopt;
    if (dimension == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(product, dimension, &product)) {
      return std::nullopt;
    }
  }
  return empty ? 0 : product;
}

std::string ShapeToString(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

namespace {

// A new vector costs its pages, and large ones are quicker to get; old contents go with old memory.
template <class T>
void Grow(size_t n, std::vector<T>* v) {
  if (n > v->capacity()) {
    *v = std::vector<T>();
    v->reserve(n);
    AdviseHugePages(v->data(), n * sizeof(T));
  }
  v->resize(n);
}

void AllocateScaled(EncodedTensor* tile) {
  const ScaledSpec& spec = tile->encoding.scaled;
  const auto rows = static_cast<size_t>(tile->rows);
  tile->data.resize(rows * static_cast<size_t>(tile->cols * DTypeBits(spec.element) / 8));
  tile->scales.resize(rows * static_cast<size_t>(spec.Groups(tile->cols)) *
                      static_cast<size_t>(DTypeBits(spec.scale_dtype) / 8));
}

void AllocateCodebook(EncodedTensor* tile) {
  const CodebookSpec& spec = tile->encoding.codebook;
  const int64_t blocks = CeilDiv(tile->rows * tile->cols, spec.block);
  tile->codes.resize(static_cast<size_t>(tile->rows * tile->cols));
  tile->scales.resize(static_cast<size_t>(blocks) * (spec.nested_block == 0 ? sizeof(float) : 1));
  tile->levels.resize(16);
  if (spec.nested_block == 0) return;
  tile->nested.block = spec.nested_block;
  tile->nested.levels.resize(256);
  tile->nested.absmax.resize(static_cast<size_t>(CeilDiv(blocks, spec.nested_block)));
}

}  // namespace

EncodedTensor EncodedTensor::Allocate(const Encoding& encoding, int64_t rows, int64_t cols) {
  EncodedTensor tile;
  tile.Resize(encoding, rows, cols);
  return tile;
}

void EncodedTensor::Reset(const Encoding& to, int64_t new_rows, int64_t new_cols) {
  // Emptied vectors keep their memory, and grow by zeros.
  data.clear();
  codes.clear();
  scales.clear();
  zeros.clear();
  group_of_column.clear();
  levels.clear();
  nested.levels.clear();
  nested.absmax.clear();
  Resize(to, new_rows, new_cols);
}

void EncodedTensor::Resize(const Encoding& to, int64_t new_rows, int64_t new_cols) {
  assert(new_rows >= 0 && new_cols >= 0);
  encoding = to;
  rows = new_rows;
  cols = new_cols;
  divisor = 1;
  first = 0;
  nested.block = nested.first = 0;
  nested.offset = 0;
  const bool integer = to.kind == Encoding::Kind::kInteger;
  const bool codebook = to.kind == Encoding::Kind::kCodebook;
  const bool scaled = to.kind == Encoding::Kind::kScaled;
  if (integer || codebook) data.clear();
  if (!integer && !codebook) codes.clear();
  if (!integer && !codebook && !scaled) scales.clear();
  if (!integer || to.integer.symmetric) zeros.clear();
  if (!integer || !to.integer.act_order) group_of_column.clear();
  if (!codebook) levels.clear();
  if (!codebook || to.codebook.nested_block == 0) {
    nested.levels.clear();
    nested.absmax.clear();
  }
  if (scaled) return AllocateScaled(this);
  if (codebook) return AllocateCodebook(this);
  const auto row_count = static_cast<size_t>(rows);
  if (!integer) {
    const std::optional<uint64_t> row_bytes = encoding.RowBytes(cols);
    assert(row_bytes.has_value());
    Grow(row_count * row_bytes.value_or(0), &data);
    return;
  }
  const IntegerSpec& spec = encoding.integer;
  assert(spec.group_size == 0 || cols % spec.group_size == 0);
  const size_t groups = row_count * static_cast<size_t>(spec.Groups(cols));
  Grow(row_count * static_cast<size_t>(cols), &codes);
  scales.resize(groups * static_cast<size_t>(DTypeBits(spec.scale_dtype) / 8));
  if (!spec.symmetric) zeros.resize(groups);
  if (spec.act_order) group_of_column.resize(static_cast<size_t>(cols));
}

}  // namespace pennyweight
