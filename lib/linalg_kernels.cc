#include "lib/linalg_kernels.h"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lib/linalg_kernels.cc"
#include "hwy/foreach_target.h"
//
#include "hwy/highway.h"
#include "lib/linalg_kernels-inl.h"

#if HWY_ONCE
#include "lib/linalg_path.h"

namespace pennyweight::linalg {

HWY_EXPORT(TargetKernels);

const Kernels& GetKernels() {
  ActiveBf16Path();  // the environment may forbid some instruction sets
  return *HWY_DYNAMIC_DISPATCH(TargetKernels)();
}

}  // namespace pennyweight::linalg
#endif  // HWY_ONCE
