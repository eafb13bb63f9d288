#include <algorithm>
#include <cmath>

#include "lib/linalg.h"
#include "lib/parallel.h"

namespace pennyweight {

bool FactorUpper(const Context& context, int64_t k, float* h, int64_t h_stride) {
  for (int64_t j = k - 1; j >= 0; --j) {
    const float* row_j = h + j * h_stride;
    ParallelFor(context, (j + 1 + 63) / 64, [&](int64_t block) {
      for (int64_t i = block * 64; i < std::min(j + 1, (block + 1) * 64); ++i) {
        float* row_i = h + i * h_stride;
        double sum = row_i[j];
        for (int64_t l = j + 1; l < k; ++l) sum -= double{row_i[l]} * row_j[l];
        row_i[j] = static_cast<float>(sum);
      }
    });
    const float pivot = h[j * h_stride + j];
    if (!(pivot > 0) || !std::isfinite(pivot)) return false;
    const float root = std::sqrt(pivot);
    for (int64_t i = 0; i < j; ++i) h[i * h_stride + j] /= root;
    h[j * h_stride + j] = root;
  }
  for (int64_t i = 1; i < k; ++i) std::fill_n(h + i * h_stride, i, 0.0f);
  return true;
}

}  // namespace pennyweight
