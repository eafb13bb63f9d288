// The grids compiled for Highway's scalar target: plain C++ on one float at a time.
// (CMakeLists.txt defines HWY_COMPILE_ONLY_SCALAR for this file.)
#include "tests/quant/scalar_grids.h"

#include "quant/grid_elements-inl.h"
#include "quant/grid_fp4-inl.h"
#include "quant/grid_integer-inl.h"
#include "quant/grid_iq1-inl.h"
#include "quant/grid_iq23-inl.h"
#include "quant/grid_iq4-inl.h"
#include "quant/grid_kquants_affine-inl.h"
#include "quant/grid_kquants_symmetric-inl.h"
#include "quant/grid_legacy-inl.h"
#include "quant/grid_ternary-inl.h"

namespace pennyweight {

std::unique_ptr<BlockGrid> MakeScalarGrid(const Encoding& encoding, int64_t cols, Effort effort) {
  static_assert(HWY_TARGET == HWY_SCALAR);
  if (encoding.kind == Encoding::Kind::kInteger) {
    return N_SCALAR::MakeIntegerGridImpl(encoding.integer, cols, effort);
  }
  if (encoding.kind == Encoding::Kind::kInteger) {
    return N_SCALAR::MakeIntegerGridImpl(encoding.integer, cols, effort);
  }
  if (encoding.kind != Encoding::Kind::kBlock) return N_SCALAR::MakeElementGridImpl(encoding, cols);
  for (const auto make :
       {N_SCALAR::MakeLegacyGridImpl, N_SCALAR::MakeSymmetricKGridImpl, N_SCALAR::MakeIq4GridImpl,
        N_SCALAR::MakeFP4GridImpl, N_SCALAR::MakeTernaryGridImpl, N_SCALAR::MakeIq1GridImpl,
        N_SCALAR::MakeAffineKGridImpl, N_SCALAR::MakeIq23GridImpl}) {
    if (auto grid = make(encoding.block, effort)) return grid;
  }
  return nullptr;
}

}  // namespace pennyweight
