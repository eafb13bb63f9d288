// The order in which gptq chooses the codes of columns. Errors of early columns are made good by
// later ones, so columns of large activations come first ("act-order" of GPTQ's code); within the
// blocks of a type, so that what is stored stays where it is: blocks by their largest column, and
// so for sub-blocks in a block and columns in a sub-block (group-aware reordering, GAR, of
// GPTQModel).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/encoding.h"

namespace pennyweight {

// order[j]: the column coded in place j, for an input whose matrices are all of the given types.
// diagonal[k] of H. Runs of every type's units, sub-blocks and blocks stay together; columns where
// these do not nest, and those of types without a grid, stay as they are. Empty: no reordering.
std::vector<int32_t> GptqOrder(std::span<const float> diagonal,
                               std::span<const Encoding> encodings);

}  // namespace pennyweight
