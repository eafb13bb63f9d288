#include "quant/grid_types.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/grid_elements.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "quant/grid_elements-inl.h"

#if HWY_ONCE
namespace pennyweight {

HWY_EXPORT(MakeElementGridImpl);

std::unique_ptr<BlockGrid> MakeElementGrid(const Encoding& encoding, int64_t cols) {
  return HWY_DYNAMIC_DISPATCH(MakeElementGridImpl)(encoding, cols);
}

}  // namespace pennyweight
#endif  // HWY_ONCE
