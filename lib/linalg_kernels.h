// What the compute kernels of lib/linalg.h give to its loops: packing, one tile of a product, a
// few dot products, a triangular solve. Private to lib/linalg_*.cc.
//
// Operands are packed as in Goto and van de Geijn, "Anatomy of High-Performance Matrix
// Multiplication" (2008): A in panels of `mr` rows, B in panels of `nr` columns, both over a slab
// of at most kDepth of the summed axis. A panel takes PanelFloats() floats.
//   B panel: [depth][nr]
//   A panel: chunks of kChunk of the summed axis, each [mr][kChunk] when the source is row-major
//            and [kChunk][mr] when it is transposed, so that packing A never transposes.
#pragma once

#include <cstdint>

#include "lib/dtype.h"

namespace pennyweight::linalg {

inline constexpr int64_t kChunk = 16;
inline constexpr int64_t kDepth = 384;  // a panel of A then stays in L1
inline constexpr int64_t kLeaf = 64;    // side of the diagonal blocks of a Cholesky factor

// Element (index, p) of an operand, p on the summed axis, is data[index * stride + p], or
// data[p * stride + index] when `transposed`. Transposed operands and A are F32.
struct Operand {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t stride = 0;
  bool transposed = false;
};

// Packs indices [first, first + count) and [p, p + depth) of the summed axis; `count` is cut into
// panels and the last panel is filled up with zeros. `to` is aligned to 64 bytes.
struct PackArgs {
  Operand from;
  int64_t first = 0, count = 0;
  int64_t p = 0, depth = 0;
  float* to = nullptr;
};

enum class Update { kStore, kAdd, kSubtract };

// C[rows, cols] of packed panels. Only elements with column + diagonal >= row are written.
struct TileArgs {
  const float* a = nullptr;
  const float* b = nullptr;
  bool a_transposed = false;
  int64_t rows = 0, cols = 0, depth = 0;
  float* c = nullptr;
  int64_t c_stride = 0;
  Update update = Update::kStore;
  int64_t diagonal = INT64_MAX / 2;
};

// c[i, j] = (or +=) a[i, :] . b[j, :] for i < m (at most kDotRows) and j < n, nothing packed.
inline constexpr int64_t kDotRows = 4;
struct DotArgs {
  const float* a = nullptr;
  int64_t a_stride = 0;
  Operand b;
  int64_t first = 0;  // of b's rows
  int64_t m = 0, n = 0, k = 0;
  float* c = nullptr;  // already at column `first`
  int64_t c_stride = 0;
  bool accumulate = false;
};

// X[rows, n] := X * R^-T in place, R[n, n] upper triangular, n and rows at most kLeaf.
struct SolveArgs {
  int64_t rows = 0, n = 0;
  float* x = nullptr;
  int64_t x_stride = 0;
  const float* r = nullptr;
  int64_t r_stride = 0;
};

struct Kernels {
  const char* target;  // of Highway: "AVX3"
  int64_t mr, nr;
  void (*pack_a)(const PackArgs&);
  void (*pack_b)(const PackArgs&);
  void (*tile)(const TileArgs&);
  void (*dot)(const DotArgs&);
  void (*solve)(const SolveArgs&);
};

// Those of the best instruction set of this CPU. One product must use one table throughout.
const Kernels& GetKernels();

// Floats of one packed panel of `width` (mr or nr) rows or columns.
constexpr int64_t PanelFloats(int64_t width, int64_t depth) {
  return (depth + kChunk - 1) / kChunk * kChunk * width;
}

}  // namespace pennyweight::linalg
