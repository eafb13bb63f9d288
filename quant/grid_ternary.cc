#include "quant/grid_types.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/grid_ternary.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "quant/grid_ternary-inl.h"

#if HWY_ONCE
namespace pennyweight {

HWY_EXPORT(MakeTernaryGridImpl);

std::unique_ptr<BlockGrid> MakeTernaryGrid(BlockType type, Effort effort) {
  return HWY_DYNAMIC_DISPATCH(MakeTernaryGridImpl)(type, effort);
}

}  // namespace pennyweight
#endif  // HWY_ONCE
