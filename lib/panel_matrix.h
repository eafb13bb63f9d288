// A symmetric matrix that need not fit the memory (the Hessian of a layer's widest input): its
// upper triangle in square panels, as many as the budget allows in memory and the others in a
// scratch file. Products, factor and solve give the bytes that SyrkUpper, FactorUpper and
// SolveUpper give for the same matrix in memory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lib/context.h"
#include "lib/linalg.h"
#include "lib/result.h"

namespace pennyweight {

// Not thread-safe; each function uses the threads of its context. Scratch errors: kIo, kNoSpace.
class PanelMatrix {
 public:
  // Bytes of memory that all of [k, k] takes, and the fewest that Create can do with.
  static uint64_t FullBytes(int64_t k);
  static uint64_t LeastBytes(int64_t k);

  // Zeros. Stays within `memory` bytes; the scratch file, if there is one, is unnamed, in
  // `scratch_dir`, and gone with the object. Errors: kMemory (less than LeastBytes), as
  // ScratchFile.
  static Result<PanelMatrix> Create(int64_t k, uint64_t memory, const std::string& scratch_dir);
  // With another side of panels, for tests.
  static Result<PanelMatrix> CreateInPanels(int64_t k, uint64_t memory,
                                            const std::string& scratch_dir, int64_t panel);
  PanelMatrix(PanelMatrix&&) noexcept;
  PanelMatrix& operator=(PanelMatrix&&) noexcept;
  ~PanelMatrix();

  int64_t size() const;
  // Of the panels that are not in memory.
  uint64_t scratch_bytes() const;

  // H += X[t, k]^T X[t, k], as SyrkUpper. With a scratch file each call reads and writes all of it:
  // give it many tokens at once.
  Status AddProduct(const Context& context, int64_t t, const float* x, int64_t x_stride,
                    Precision precision = Precision::kFull);
  // One panel: rows of H from `row` on, columns from `column` on. What lies below H's diagonal may
  // be anything.
  struct Panel {
    int64_t row, rows, column, columns;
    float* data;  // [rows, columns] without gaps
  };
  // Calls visit(panel, r) for each row r of each panel, on all threads, panel after panel. With
  // `change` what visit wrote is kept.
  Status VisitRows(const Context& context, bool change,
                   const std::function<void(const Panel&, int64_t r)>& visit);
  // H *= factor, then the diagonal += added.
  Status ScaleAndAdd(const Context& context, float factor, float added);
  Result<std::vector<float>> Diagonal() const;
  // Zeros again.
  void Clear();

  // As FactorUpper; false when H is not positive definite, and destroyed. kInterrupted when the
  // context is cancelled.
  Result<bool> Factor(const Context& context);
  // After Factor: B[rows, k] becomes B (R R^T)^-1, as SolveUpper.
  Status Solve(const Context& context, int64_t rows, float* b, int64_t b_stride);
  // Rows [row, row + rows) of columns [column, column + columns) of the upper triangle, zeros below
  // the diagonal, to `to` with `stride` elements between rows.
  Status Read(const Context& context, int64_t row, int64_t rows, int64_t column, int64_t columns,
              float* to, int64_t stride) const;

 private:
  class Storage;
  explicit PanelMatrix(std::unique_ptr<Storage> storage);
  std::unique_ptr<Storage> storage_;
};

}  // namespace pennyweight
