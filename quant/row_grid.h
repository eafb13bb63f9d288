// A grid that works on one block of one row at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "lib/encoding.h"
#include "lib/tensor.h"
#include "quant/grid.h"

namespace pennyweight {

class RowGrid {
 public:
  virtual ~RowGrid() = default;

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
  RowGrid(int64_t block, int64_t sub_block) : block_(block), sub_block_(sub_block) {}

 private:
  int64_t block_;
  int64_t sub_block_;
};

}  // namespace pennyweight
