// Factories of the grids, one per family of types; MakeGrid chooses. Each returns nullptr for a
// type that is not of its family.
#pragma once

#include <memory>

#include "quant/grid.h"

namespace pennyweight {

// Q4_0 Q4_1 Q5_0 Q5_1 Q8_0.
std::unique_ptr<BlockGrid> MakeLegacyGrid(BlockType type, Effort effort);
// Q3_K Q6_K: sub-blocks with a signed scale.
std::unique_ptr<BlockGrid> MakeSymmetricKGrid(BlockType type, Effort effort);
// IQ4_NL IQ4_XS: codes of unevenly spaced values.
std::unique_ptr<BlockGrid> MakeIq4Grid(BlockType type, Effort effort);

// MXFP4 NVFP4.
std::unique_ptr<BlockGrid> MakeFP4Grid(BlockType type, Effort effort);
// TQ1_0 TQ2_0 Q1_0 Q2_0.
std::unique_ptr<BlockGrid> MakeTernaryGrid(BlockType type, Effort effort);

// IQ1_S IQ1_M.
std::unique_ptr<BlockGrid> MakeIq1Grid(BlockType type, Effort effort);
// Q2_K Q4_K Q5_K.
std::unique_ptr<BlockGrid> MakeAffineKGrid(BlockType type, Effort effort);
// IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S.
std::unique_ptr<BlockGrid> MakeIq23Grid(BlockType type, Effort effort);
// Integers of 2 to 8 bits, without act_order; rows of `cols` columns.
std::unique_ptr<BlockGrid> MakeIntegerGrid(const IntegerSpec& spec, int64_t cols, Effort effort);
// nf4, fp4 with blocks that lie within rows; fp8 with scales for rows or some columns of one.
std::unique_ptr<BlockGrid> MakeElementGrid(const Encoding& encoding, int64_t cols);

}  // namespace pennyweight
