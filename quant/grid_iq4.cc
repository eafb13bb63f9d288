#include "quant/grid_types.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/grid_iq4.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "quant/grid_iq4-inl.h"

#if HWY_ONCE
namespace pennyweight {

HWY_EXPORT(MakeIq4GridImpl);

std::unique_ptr<BlockGrid> MakeIq4Grid(BlockType type, Effort effort) {
  return HWY_DYNAMIC_DISPATCH(MakeIq4GridImpl)(type, effort);
}

}  // namespace pennyweight
#endif  // HWY_ONCE
