// MakeGrid in plain scalar code, as the reference of what the vector kernels give.
#pragma once

#include <memory>

#include "quant/grid.h"

namespace pennyweight {

// nullptr where there is none.
std::unique_ptr<BlockGrid> MakeScalarGrid(const Encoding& encoding, int64_t cols, Effort effort);

}  // namespace pennyweight
