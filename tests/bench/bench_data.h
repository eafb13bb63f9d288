// Matrices to measure quantizers on: made up, or read from a model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/result.h"

namespace pennyweight {

struct BenchData {
  std::string name;
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<float> w;           // [rows, cols]
  std::vector<float> importance;  // [cols], positive
};

// `what` is one of
//   peer                     N(0,1) times a log-normal scale per column (sigma 0.3), over 64: the
//                            data of the figures in docs/performance.md
//   gauss                    N(0,1) over 64
//   FILE.safetensors:TENSOR  at most `rows` rows of an F32, F16 or BF16 tensor; `cols` is the
//   file's FILE                     raw little-endian F32 [?, cols], at most `rows` rows
// The importance is log-normal (sigma 1), or read from `importance_file` (raw F32 [cols]) when that
// is not empty. The same arguments give the same numbers.
Result<BenchData> MakeBenchData(const std::string& what, int64_t rows, int64_t cols,
                                const std::string& importance_file);

}  // namespace pennyweight
