// The order in which gptq chooses the codes of columns. Errors of early columns are made good by
// later ones, so columns of large activations come first ("act-order" of GPTQ's code); within the
// blocks of a type, so that what is stored stays where it is: blocks by their largest column, and
// so for sub-blocks in a block and columns in a sub-block (group-aware reordering, GAR, of
// GPTQModel).
//
// Columns change places within panels only, because then the factor of the reordered Hessian
// follows from the one there is: with P a permutation within panels, P R is upper triangular but
// for the panels on its diagonal, and an orthogonal matrix for each of these makes it so.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/context.h"
#include "quant/grid.h"

namespace pennyweight {

// Columns between two matrix products of gptq, at most: whole blocks, or parts of a longer one.
inline constexpr int64_t kGptqPanel = 256;
int64_t GptqPanel(const BlockGrid& grid);

// order[j]: the column coded in place j, for diagonal[k] of H.
std::vector<int32_t> GptqOrder(std::span<const float> diagonal, const BlockGrid& grid);

// The factor of H with rows and columns in that order, for r[k, k] with H = R R^T, both upper
// triangular. `order` as GptqOrder gives it for panels of `panel` columns.
std::vector<float> ReorderFactor(const Context& context, const float* r,
                                 std::span<const int32_t> order, int64_t panel);

}  // namespace pennyweight
