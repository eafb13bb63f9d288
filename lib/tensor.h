// Tensors as they are listed before a byte of them is read, and encoded tiles of their rows.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/encoding.h"
#include "lib/result.h"

namespace pennyweight {

using Shape = std::vector<int64_t>;  // outermost first, as PyTorch prints it

// Elements of a shape; nullopt on a negative dimension or when it does not fit int64.
std::optional<int64_t> ElementCount(const Shape& shape);
// "[4096, 11008]"
std::string ShapeToString(const Shape& shape);

// What a source says of one tensor.
struct TensorInfo {
  std::string name;         // Hugging Face's name where the family is known, else as stored
  std::string stored_name;  // in the file
  Encoding encoding;
  Shape shape;          // of the values, in canonical (Hugging Face) order
  uint64_t bytes = 0;   // all stored parts
  std::string file;     // path of the file that holds it
  uint64_t offset = 0;  // bytes from the start of that file (of the codes, if in parts)
  // Hugging Face's tensor of this name has the last two dimensions exchanged: the stored form keeps
  // its blocks along rows, and plain values under the name have to be transposed.
  bool transposed = false;

  // A tensor is read as a matrix: the last dimension is a row, all others are rows.
  int64_t cols() const { return shape.empty() ? 1 : shape.back(); }
  int64_t rows() const {
    int64_t r = 1;
    for (size_t i = 0; i + 1 < shape.size(); ++i) r *= shape[i];
    return r;
  }
  int64_t elements() const { return rows() * cols(); }
};

// The absmax of a nested codebook: absmax i is levels[byte i] * absmax[(first + i) / block] +
// offset.
struct NestedScales {
  int64_t block = 0;
  int64_t first = 0;          // place of the tile's first byte in its block
  std::vector<float> levels;  // [256], as stored
  std::vector<float> absmax;  // of the blocks that the tile touches
  float offset = 0;
};

// Some rows of a tensor in encoded form. kPlain and kBlock use `data`; the other kinds use `codes`
// (kScaled: `data`, the bytes of the elements), `scales` and what their specs call for.
struct EncodedTensor {
  Encoding encoding;
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<uint8_t> data;             // [rows, RowBytes(cols)]
  std::vector<int8_t> codes;             // [rows, cols], signed codes
  std::vector<uint8_t> scales;           // [rows, groups] of integer.scale_dtype, as stored
  std::vector<int8_t> zeros;             // [rows, groups], signed; empty when symmetric
  std::vector<int32_t> group_of_column;  // [cols], kInteger with act_order: in [0, groups)
  float divisor = 1;                     // kScaled with `divided`
  // kCodebook: codes 0 to 15; `scales` holds one absmax (F32, or a byte when nested) for each block
  // that the tile touches.
  std::vector<float> levels;  // [16], as stored
  int64_t first = 0;          // place of the tile's first value in its block
  NestedScales nested;

  // Sized for `rows` x `cols` of `encoding`, zero-filled; a codebook's tile begins with a block.
  // Precondition: cols fits the encoding.
  static EncodedTensor Allocate(const Encoding& encoding, int64_t rows, int64_t cols);

  // The same in the memory that this tile has already: for tiles that come one after the other,
  // because fresh pages cost more than what is done with them. Resize leaves old contents where
  // the caller writes every byte; Reset is zero-filled. Precondition as above.
  void Resize(const Encoding& to, int64_t new_rows, int64_t new_cols);
  void Reset(const Encoding& to, int64_t new_rows, int64_t new_cols);
};

}  // namespace pennyweight
