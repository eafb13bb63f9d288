#include "quant/grid_types.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/grid_kquants_affine.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "quant/grid_kquants_affine-inl.h"

#if HWY_ONCE
namespace pennyweight {

HWY_EXPORT(MakeAffineKGridImpl);

std::unique_ptr<BlockGrid> MakeAffineKGrid(BlockType type, Effort effort) {
  return HWY_DYNAMIC_DISPATCH(MakeAffineKGridImpl)(type, effort);
}

}  // namespace pennyweight
#endif  // HWY_ONCE
