// What a type offers a method: fix the scales of a block as they will be stored, then choose the
// code of each weight. One BlockGrid works on one block of one row at a time; it is cheap to make,
// is reused from block to block, and belongs to one thread.
//
// Contract: after BeginBlock (and BeginSubBlock where the type has sub-blocks) Decode and Round see
// exactly the values a reader of the packed bytes will see: scales are rounded as stored first.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "lib/encoding.h"
#include "lib/tensor.h"

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

  // Fixes all stored scales of the block for weights w[block] with importance >= 0 per column
  // (empty: all ones). All-zero or non-finite importance falls back to ones.
  virtual void BeginBlock(std::span<const float> w, std::span<const float> importance,
                          ScaleSearch search) = 0;

  // Re-fits what is private to sub-block s (its integer scale, and minimum) to w[sub_block], the
  // block's own scales staying fixed. Types with one level do nothing.
  virtual void BeginSubBlock(int64_t s, std::span<const float> w,
                             std::span<const float> importance) = 0;

  // Chooses and keeps the code of column i of the block; returns its decoded value.
  virtual float Round(int64_t i, float w) = 0;

  // Writes the block's codes and scales into row `row`, block `b` of an encoded tile.
  virtual void Pack(EncodedTensor* out, int64_t row, int64_t b) const = 0;

 protected:
  BlockGrid(int64_t block, int64_t sub_block) : block_(block), sub_block_(sub_block) {}

 private:
  int64_t block_;
  int64_t sub_block_;
};

// The grid of an encoding for rows of `cols` columns; nullptr where the encoding has none (plain
// dtypes, and block types that are read but not written).
std::unique_ptr<BlockGrid> MakeGrid(const Encoding& encoding, int64_t cols);

}  // namespace pennyweight
