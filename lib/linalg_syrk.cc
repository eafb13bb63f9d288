#include "lib/linalg.h"
#include "lib/parallel.h"

namespace pennyweight {

void SyrkUpper(const Context& context, int64_t t, int64_t k, const float* x, int64_t x_stride,
               float* h, int64_t h_stride) {
  ParallelFor(context, k, [&](int64_t i) {
    float* row = h + i * h_stride;
    for (int64_t p = 0; p < t; ++p) {
      const float* from = x + p * x_stride;
      for (int64_t j = i; j < k; ++j) row[j] += from[i] * from[j];
    }
  });
}

}  // namespace pennyweight
