#include "quant/grid_types.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/grid_iq23.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "quant/grid_iq23-inl.h"

#if HWY_ONCE
namespace pennyweight {

HWY_EXPORT(MakeIq23GridImpl);

std::unique_ptr<BlockGrid> MakeIq23Grid(BlockType type, Effort effort) {
  return HWY_DYNAMIC_DISPATCH(MakeIq23GridImpl)(type, effort);
}

}  // namespace pennyweight
#endif  // HWY_ONCE
