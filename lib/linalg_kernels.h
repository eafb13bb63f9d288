// What the compute kernels of lib/linalg.h give to its loops: packing, one tile of a product, a
// few dot products, a triangular solve. Private to lib/linalg_*.cc.
//
// Operands are packed as in Goto and van de Geijn, "Anatomy of High-Performance Matrix
// Multiplication" (2008): A in panels of `mr` rows, B in panels of `nr` columns, both over a slab
// of the summed axis. A panel takes PanelBytes(). Two forms:
//   fp32  B panel: [depth][nr]
//         A panel: chunks of kChunk of the summed axis, each [mr][kChunk] when the source is
//                  row-major and [kChunk][mr] when it is transposed, so that packing A never
//                  transposes
//   bf16  tiles of lib/linalg_tile.h, the summed axis in steps of 32
#pragma once

#include <cstdint>

#include "lib/dtype.h"
#include "lib/linalg_tile.h"

namespace pennyweight::linalg {

inline constexpr int64_t kChunk = 16;
inline constexpr int64_t kLeaf = 64;  // side of the diagonal blocks of a Cholesky factor

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
  void* to = nullptr;
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

// X[rows, n] := X * R^-T or X * R^-1 in place, R[n, n] upper triangular, n and rows at most kLeaf.
struct SolveArgs {
  int64_t rows = 0, n = 0;
  float* x = nullptr;
  int64_t x_stride = 0;
  const float* r = nullptr;
  int64_t r_stride = 0;
};

// One way to compute a product, and the sizes that suit it. `depth` is that of a slab at most;
// tile_rows and tile_columns are what one task computes: its B stays in a core's L2.
struct ProductKernels {
  int64_t mr = 0, nr = 0;
  int64_t depth = 0, chunk = 0;  // of the summed axis; packed depth is a multiple of chunk
  int64_t element_bytes = 0;
  int64_t tile_rows = 0, tile_columns = 0;
  void (*pack_a)(const PackArgs&) = nullptr;
  void (*pack_b)(const PackArgs&) = nullptr;
  void (*tile)(const TileArgs&) = nullptr;

  // Of one packed panel of `width` (mr or nr) rows or columns.
  int64_t PanelBytes(int64_t width, int64_t packed_depth) const {
    return (packed_depth + chunk - 1) / chunk * chunk * width * element_bytes;
  }
};

struct Kernels {
  const char* target;  // of Highway: "AVX3"
  ProductKernels full;
  ProductKernels rounded;  // operands are rounded to bf16, the rest is as in `full`
  // Into tiles of bf16, for a table whose `tile` takes them.
  void (*pack_tiles_a)(const PackArgs&);
  void (*pack_tiles_b)(const PackArgs&);
  void (*dot)(const DotArgs&);
  void (*solve_transposed)(const SolveArgs&);  // R^-T
  void (*solve)(const SolveArgs&);             // R^-1
};

// Those of the best instruction set of this CPU that the environment allows (lib/linalg_path.h).
// One product must use one table throughout.
const Kernels& GetKernels();

}  // namespace pennyweight::linalg
