// Factories of the grids, one per family of types; MakeGrid chooses.
#pragma once

#include <cstdint>
#include <memory>

#include "quant/row_grid.h"

namespace pennyweight {

// Q4_0 Q4_1 Q5_0 Q5_1 Q8_0.
std::unique_ptr<RowGrid> MakeLegacyRowGrid(BlockType type);
// Integer codes in groups of group_size columns, or of the whole row of `cols`.
std::unique_ptr<RowGrid> MakeIntegerRowGrid(const IntegerSpec& spec, int64_t cols);

// Any of these in lanes; nullptr for another encoding.
std::unique_ptr<BlockGrid> MakeRowGridLanes(const Encoding& encoding, int64_t cols);

}  // namespace pennyweight
