// Factories of the grids, one per family of types; MakeGrid chooses. Each returns nullptr for a
// type that is not of its family.
#pragma once

#include <memory>

#include "quant/grid.h"

namespace pennyweight {

// Q4_0 Q5_0 Q8_0.
std::unique_ptr<BlockGrid> MakeLegacyGrid(BlockType type, Effort effort);
// IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S.
std::unique_ptr<BlockGrid> MakeIq23Grid(BlockType type, Effort effort);

}  // namespace pennyweight
