#include "quant/grid_types.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/grid_kquants_symmetric.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "quant/grid_kquants_symmetric-inl.h"

#if HWY_ONCE
namespace pennyweight {

HWY_EXPORT(MakeSymmetricKGridImpl);

std::unique_ptr<BlockGrid> MakeSymmetricKGrid(BlockType type, Effort effort) {
  return HWY_DYNAMIC_DISPATCH(MakeSymmetricKGridImpl)(type, effort);
}

}  // namespace pennyweight
#endif  // HWY_ONCE
