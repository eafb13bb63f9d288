// What a type offers a method: fix the scales of a block as they will be stored, then choose the
// code of each weight. One BlockGrid works on the same block of columns of kLanes rows at a time,
// one row in each lane of a SIMD vector; it is cheap to make, is reused from block to block, and
// belongs to one thread.
//
// Contract: after BeginBlock (and BeginSubBlock where the type has sub-blocks) Round sees exactly
// the values a reader of the packed bytes will see: scales are rounded as stored first. What one
// lane holds never changes the result of another, and results are the same on every instruction
// set.
#pragma once

#include <cstdint>
#include <memory>

#include "lib/encoding.h"
#include "lib/tensor.h"
#include "quant/effort.h"
#include "quant/lanes.h"

namespace pennyweight {

// How scales are found. kMinMax: the plain baseline of the type (absolute maximum, or minimum and
// maximum). kSearch: least importance-weighted squared error over candidate scales.
enum class ScaleSearch : uint8_t { kMinMax, kSearch };

class BlockGrid {
 public:
  virtual ~BlockGrid() = default;

  // Columns of one block (the k-quants' super-block, the integers' group) and of one sub-block
  // (= block where there is only one level). Codes of a block are independent given its scales.
  int64_t block() const { return block_; }
  int64_t sub_block() const { return sub_block_; }
  // Columns that are coded together: 1, or 8 (4) where a codebook has vectors.
  int64_t unit() const { return unit_; }
  // Bytes of one packed block: see Pack.
  int64_t packed_bytes() const { return packed_bytes_; }

  // Fixes all stored scales for finite weights w[block][kLanes] with importance h[block] > 0 of a
  // mean of about one (see NormalizeImportance).
  virtual void BeginBlock(const float* w, const float* h, ScaleSearch search) = 0;

  // Re-fits what is private to sub-block s (its integer scale, and minimum) to w[sub_block][kLanes]
  // with h[sub_block], the block's own scales staying fixed. Types with one level do nothing.
  virtual void BeginSubBlock(int64_t s, const float* w, const float* h) = 0;

  // Chooses and keeps the codes of columns [i, i + unit) of the block for w[unit][kLanes]; writes
  // their values to decoded[unit][kLanes]. With a unit above 1 the miss (w - decoded) of a row
  // costs |(w - decoded) R|^2, R the upper triangular r[unit, unit] with rows `stride` floats
  // apart; nullptr: R^2 is the diagonal of the importance given to BeginBlock.
  virtual void Round(int64_t i, const float* w, const float* r, int64_t stride, float* decoded) = 0;

  // Writes the packed blocks of all lanes, one after the other, to out[kLanes * packed_bytes()].
  // A block of a GGUF type is its bytes; of integers: the codes (int8), the scale as stored, and
  // the zero point (int8) where the encoding has one.
  virtual void Pack(uint8_t* out) const = 0;

  // Takes over scales and codes of some lanes from a grid made for the same encoding and columns.
  virtual void TakeLanes(const BlockGrid& from, const LaneMask& lanes) = 0;

  // BeginBlock, Round for all columns, and Pack in one. Types whose kernels can do better override.
  virtual void Encode(const float* w, const float* h, ScaleSearch search, uint8_t* out);

 protected:
  BlockGrid(int64_t block, int64_t sub_block, int64_t unit, int64_t packed_bytes)
      : block_(block), sub_block_(sub_block), unit_(unit), packed_bytes_(packed_bytes) {}

 private:
  int64_t block_, sub_block_, unit_, packed_bytes_;
};

// The grid of an encoding for rows of `cols` columns; nullptr where the encoding has none (plain
// dtypes, and block types that are read but not written).
std::unique_ptr<BlockGrid> MakeGrid(const Encoding& encoding, int64_t cols,
                                    Effort effort = Effort::kNormal);

// Puts the packed block of one row in its place: row `row`, block `b` of an encoded tile.
void StorePacked(const uint8_t* packed, int64_t row, int64_t b, EncodedTensor* out);
// The same for the packed blocks of rows [row, row + count), one after the other.
void StorePackedLanes(const uint8_t* packed, int64_t packed_bytes, int64_t row, int64_t count,
                      int64_t b, EncodedTensor* out);

}  // namespace pennyweight
