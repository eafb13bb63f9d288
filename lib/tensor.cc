#include "lib/tensor.h"

#include <cassert>

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
  assert(rows >= 0 && cols >= 0);
  EncodedTensor tile;
  tile.encoding = encoding;
  tile.rows = rows;
  tile.cols = cols;
  const auto row_count = static_cast<size_t>(rows);
  if (encoding.kind == Encoding::Kind::kScaled) {
    AllocateScaled(&tile);
    return tile;
  }
  if (encoding.kind == Encoding::Kind::kCodebook) {
    AllocateCodebook(&tile);
    return tile;
  }
  if (encoding.kind != Encoding::Kind::kInteger) {
    const std::optional<uint64_t> row_bytes = encoding.RowBytes(cols);
    assert(row_bytes.has_value());
    tile.data.resize(row_count * row_bytes.value_or(0));
    return tile;
  }
  const IntegerSpec& spec = encoding.integer;
  assert(spec.group_size == 0 || cols % spec.group_size == 0);
  const size_t groups = row_count * static_cast<size_t>(spec.Groups(cols));
  tile.codes.resize(row_count * static_cast<size_t>(cols));
  tile.scales.resize(groups * static_cast<size_t>(DTypeBits(spec.scale_dtype) / 8));
  if (!spec.symmetric) tile.zeros.resize(groups);
  if (spec.act_order) tile.group_of_column.resize(static_cast<size_t>(cols));
  return tile;
}

}  // namespace pennyweight
