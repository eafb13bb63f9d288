#include "quant/grid_types.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/grid_legacy.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "quant/grid_legacy-inl.h"

#if HWY_ONCE
namespace pennyweight {

HWY_EXPORT(MakeLegacyGridImpl);

std::unique_ptr<BlockGrid> MakeLegacyGrid(BlockType type, Effort effort) {
  return HWY_DYNAMIC_DISPATCH(MakeLegacyGridImpl)(type, effort);
}

}  // namespace pennyweight
#endif  // HWY_ONCE
