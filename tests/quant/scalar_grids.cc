// The grids compiled for Highway's scalar target: plain C++ on one float at a time.
// (CMakeLists.txt defines HWY_COMPILE_ONLY_SCALAR for this file.)
#include "tests/quant/scalar_grids.h"

#include "quant/grid_integer-inl.h"
#include "quant/grid_legacy-inl.h"

namespace pennyweight {

std::unique_ptr<BlockGrid> MakeScalarGrid(const Encoding& encoding, int64_t cols, Effort effort) {
  static_assert(HWY_TARGET == HWY_SCALAR);
  if (encoding.kind == Encoding::Kind::kInteger) {
    return N_SCALAR::MakeIntegerGridImpl(encoding.integer, cols, effort);
  }
  if (encoding.kind != Encoding::Kind::kBlock) return nullptr;
  return N_SCALAR::MakeLegacyGridImpl(encoding.block, effort);
}

}  // namespace pennyweight
