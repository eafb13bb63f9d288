#include "lib/tensor.h"

#include <cassert>
#include <utility>

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

// A vector of n elements, in the memory of `old` where that is enough: what a new one costs is its
// pages, of which large ones are quicker to get.
template <class T>
std::vector<T> Sized(std::vector<T> old, size_t n) {
  if (n > old.capacity()) {
    old = std::vector<T>();
    old.reserve(n);
    AdviseHugePages(old.data(), n * sizeof(T));
  }
  old.resize(n);
  return old;
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
  tile.Reset(encoding, rows, cols);
  return tile;
}

void EncodedTensor::Reset(const Encoding& to, int64_t row_count, int64_t col_count) {
  assert(row_count >= 0 && col_count >= 0);
  EncodedTensor old = std::move(*this);
  *this = EncodedTensor();
  encoding = to;
  rows = row_count;
  cols = col_count;
  const auto count = static_cast<size_t>(rows);
  if (encoding.kind == Encoding::Kind::kScaled) return AllocateScaled(this);
  if (encoding.kind == Encoding::Kind::kCodebook) return AllocateCodebook(this);
  if (encoding.kind != Encoding::Kind::kInteger) {
    const std::optional<uint64_t> row_bytes = encoding.RowBytes(cols);
    assert(row_bytes.has_value());
    data = Sized(std::move(old.data), count * row_bytes.value_or(0));
    return;
  }
  const IntegerSpec& spec = encoding.integer;
  assert(spec.group_size == 0 || cols % spec.group_size == 0);
  const size_t groups = count * static_cast<size_t>(spec.Groups(cols));
  codes = Sized(std::move(old.codes), count * static_cast<size_t>(cols));
  scales =
      Sized(std::move(old.scales), groups * static_cast<size_t>(DTypeBits(spec.scale_dtype) / 8));
  if (!spec.symmetric) zeros = Sized(std::move(old.zeros), groups);
  if (spec.act_order) group_of_column.resize(static_cast<size_t>(cols));
}

}  // namespace pennyweight
