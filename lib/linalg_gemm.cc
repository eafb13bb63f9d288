#include <algorithm>
#include <vector>

#include "lib/linalg.h"
#include "lib/parallel.h"

namespace pennyweight {

void Gemm(const Context& context, const GemmArgs& args) {
  if (args.m <= 0 || args.n <= 0) return;
  constexpr int64_t kRows = 16;
  const int64_t item = DTypeBits(args.b_dtype) / 8;
  ParallelFor(context, (args.n + kRows - 1) / kRows, [&](int64_t block) {
    std::vector<float> row(static_cast<size_t>(args.k));
    for (int64_t j = block * kRows; j < std::min(args.n, (block + 1) * kRows); ++j) {
      DecodeToFloat(args.b_dtype, static_cast<const char*>(args.b) + j * args.b_stride * item,
                    row.data(), row.size());
      for (int64_t i = 0; i < args.m; ++i) {
        const float* a = args.a + i * args.a_stride;
        float sums[8] = {};
        int64_t p = 0;
        for (; p + 8 <= args.k; p += 8) {
          for (int64_t l = 0; l < 8; ++l) sums[l] += a[p + l] * row[p + l];
        }
        float sum = 0;
        for (; p < args.k; ++p) sum += a[p] * row[p];
        for (const float s : sums) sum += s;
        float& c = args.c[i * args.c_stride + j];
        c = args.accumulate ? c + sum : sum;
      }
    }
  });
}

void GemmNn(const Context& context, const GemmNnArgs& args) {
  if (args.m <= 0 || args.n <= 0) return;
  ParallelFor(context, args.m, [&](int64_t i) {
    std::vector<float> row(static_cast<size_t>(args.n));
    for (int64_t p = 0; p < args.k; ++p) {
      const float a = args.a[i * args.a_stride + p];
      const float* b = args.b + p * args.b_stride;
      for (int64_t j = 0; j < args.n; ++j) row[j] += a * b[j];
    }
    float* c = args.c + i * args.c_stride;
    for (int64_t j = 0; j < args.n; ++j) {
      c[j] = args.subtract ? c[j] - row[j] : args.accumulate ? c[j] + row[j] : row[j];
    }
  });
}

}  // namespace pennyweight
