#include "quant/grid_types.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/grid_integer.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "quant/grid_integer-inl.h"

#if HWY_ONCE
namespace pennyweight {

HWY_EXPORT(MakeIntegerGridImpl);

std::unique_ptr<BlockGrid> MakeIntegerGrid(const IntegerSpec& spec, int64_t cols, Effort effort) {
  if (spec.bits < 2 || spec.bits > 8 || !IsFloatDType(spec.scale_dtype) || spec.act_order) {
    return nullptr;
  }
  return HWY_DYNAMIC_DISPATCH(MakeIntegerGridImpl)(spec, cols, effort);
}

}  // namespace pennyweight
#endif  // HWY_ONCE
