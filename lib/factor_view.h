// The triangular factor of a Hessian, wherever it lies: in one array, or in panels of which some
// are in a scratch file. It is read in strips of a few rows or columns.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/context.h"
#include "lib/panel_matrix.h"
#include "lib/result.h"

namespace pennyweight {

// R [k, k], upper triangular; what it looks at must outlive it.
class FactorView {
 public:
  // Row-major, zeros below the diagonal.
  FactorView(int64_t k, const float* r) : k_(k), array_(r) {}
  // What PanelMatrix::Factor has left.
  explicit FactorView(const PanelMatrix& panels) : k_(panels.size()), panels_(&panels) {}

  int64_t k() const { return k_; }
  // nullptr when it lies in panels.
  const float* array() const { return array_; }

  // A part of it, addressed by its top-left element.
  struct Strip {
    const float* data = nullptr;
    int64_t stride = 0;  // floats between rows
    const float* At(int64_t row, int64_t column) const { return data + row * stride + column; }
  };
  // Rows [row, row + rows) of columns [column, column + columns): where they lie, or a copy in
  // `buffer`, good until that changes. Errors: those of the scratch file.
  Result<Strip> Read(const Context& context, int64_t row, int64_t rows, int64_t column,
                     int64_t columns, std::vector<float>* buffer) const;

 private:
  int64_t k_;
  const float* array_ = nullptr;
  const PanelMatrix* panels_ = nullptr;
};

}  // namespace pennyweight
