#include "quant/grid_types.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/grid_iq1.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "quant/grid_iq1-inl.h"

#if HWY_ONCE
namespace pennyweight {

HWY_EXPORT(MakeIq1GridImpl);

std::unique_ptr<BlockGrid> MakeIq1Grid(BlockType type, Effort effort) {
  return HWY_DYNAMIC_DISPATCH(MakeIq1GridImpl)(type, effort);
}

}  // namespace pennyweight
#endif  // HWY_ONCE
