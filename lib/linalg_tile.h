// One tile of a packed product, as the loops of lib/linalg_product.cc ask for it. Apart from
// lib/linalg_kernels.h because lib/linalg_amx_tile.cc, which is compiled for one CPU, may include
// nothing that has inline functions.
#pragma once

#include <cstdint>

namespace pennyweight::linalg {

enum class Update : uint8_t { kStore, kAdd, kSubtract };

// C[rows, cols] of packed panels. Only elements with column + diagonal >= row are written.
struct TileArgs {
  const void* a = nullptr;
  const void* b = nullptr;
  bool a_transposed = false;  // the source of A was (fp32 panels only)
  int64_t rows = 0, cols = 0, depth = 0;
  float* c = nullptr;
  int64_t c_stride = 0;
  Update update = Update::kStore;
  int64_t diagonal = INT64_MAX / 2;
};

// Panels of bf16: 32 rows of A or columns of B; for each 32 of the summed axis two tiles of 16
// rows or columns, each 16 lines of 64 bytes:
//   A: line r holds row r, 32 values
//   B: line q holds values 2q and 2q + 1 of every column, side by side
// What is beyond the matrix is zero.
inline constexpr int64_t kTileSide = 32;  // of C, of a panel, and of the summed axis in one step
inline constexpr int64_t kTileBytes = 1024;

}  // namespace pennyweight::linalg
