// Factories of the grids, one per family of types; MakeGrid chooses.
#pragma once

#include <cstdint>
#include <memory>

#include "quant/row_grid.h"

namespace pennyweight {

// Q2_K Q4_K Q5_K: sub-blocks with a scale and a minimum.
std::unique_ptr<RowGrid> MakeAffineKRowGrid(BlockType type);
// Q3_K Q6_K: sub-blocks with a signed scale.
std::unique_ptr<RowGrid> MakeSymmetricKRowGrid(BlockType type);

// Any of these in lanes; nullptr for another encoding.
std::unique_ptr<BlockGrid> MakeRowGridLanes(const Encoding& encoding);

}  // namespace pennyweight
