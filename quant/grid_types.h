// Factories of the grids, one per family of types; MakeGrid chooses. Each returns nullptr for a
// type that is not of its family.
#pragma once

#include <memory>

#include "quant/grid.h"

namespace pennyweight {

// Q4_0 Q4_1 Q5_0 Q5_1 Q8_0.
std::unique_ptr<BlockGrid> MakeLegacyGrid(BlockType type, Effort effort);
// Integers of 2 to 8 bits, without act_order; rows of `cols` columns.
std::unique_ptr<BlockGrid> MakeIntegerGrid(const IntegerSpec& spec, int64_t cols, Effort effort);

}  // namespace pennyweight
