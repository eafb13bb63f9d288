// Cholesky factor and solve over a symmetric matrix in square panels, wherever they lie. Private to
// lib/linalg_*.cc, lib/panel_matrix.cc and their tests.
//
// The order of operations is a constant of (size, panel): a matrix in memory and one in a file give
// the same bytes. Columns of panels are finished from right to left, each panel once ("left
// looking", which writes least): with R the factor,
//   H[I, J] - sum over L > J of R[I, L] R[J, L]^T  =  R[I, J] R[J, J]^T.
#pragma once

#include <cstdint>

#include "lib/context.h"
#include "lib/result.h"

namespace pennyweight::linalg {

// Rows and columns of a panel: 64 MiB. Products of this size are as fast as any.
inline constexpr int64_t kPanel = 4096;

// Part of a row-major matrix, addressed by its top-left element.
struct Block {
  float* data = nullptr;
  int64_t stride = 0;
  Block At(int64_t row, int64_t column) const { return {data + row * stride + column, stride}; }
};

// Panel (i, j), i <= j, holds rows [i * panel, (i + 1) * panel) of those columns, cut at `size`.
class Panels {
 public:
  static constexpr int kSlots = 4;

  Panels(int64_t size, int64_t panel) : size_(size), panel_(panel) {}
  virtual ~Panels() = default;

  int64_t size() const { return size_; }
  int64_t panel() const { return panel_; }
  int64_t count() const { return (size_ + panel_ - 1) / panel_; }
  // Rows or columns of panel i.
  int64_t Side(int64_t i) const {
    return size_ - i * panel_ < panel_ ? size_ - i * panel_ : panel_;
  }

  // The panel where it lies in memory, or a copy of it in the slot, good until the slot's next use.
  virtual Result<Block> Load(int64_t i, int64_t j, int slot) = 0;
  // Keeps what was changed in a block that Load gave for this panel and slot.
  virtual Status Store(int64_t i, int64_t j, int slot) = 0;

 private:
  int64_t size_, panel_;
};

// H becomes R (see FactorUpper in lib/linalg.h); what is below the diagonal is not to be read
// after. False when H is not positive definite, and destroyed.
Result<bool> FactorPanels(const Context& context, Panels& h);

// B[rows, size] becomes B (R R^T)^-1 for the R that FactorPanels left.
Status SolvePanels(const Context& context, Panels& r, int64_t rows, Block b);

// FactorUpper and SolveUpper with another panel than kPanel, for tests.
bool FactorUpperInPanels(const Context& context, int64_t k, float* h, int64_t h_stride,
                         int64_t panel);
void SolveUpperInPanels(const Context& context, int64_t rows, int64_t k, const float* r, float* b,
                        int64_t panel);

// Within one panel (lib/linalg_factor.cc).
bool FactorBlock(const Context& context, int64_t n, Block h);
// X[m, n] := X R^-T, or X R^-1; R[n, n] upper triangular.
void SolveTransposedBlock(const Context& context, int64_t m, int64_t n, Block x, Block r);
void SolveBlock(const Context& context, int64_t m, int64_t n, Block x, Block r);
// C[m, n] -= A[m, k] B[n, k]^T; of the upper triangle only, if `upper`.
void SubtractBlock(const Context& context, int64_t m, int64_t n, int64_t k, Block a, Block b,
                   Block c, bool upper);

}  // namespace pennyweight::linalg
