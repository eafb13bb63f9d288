#include "lib/factor_view.h"

namespace pennyweight {

Result<FactorView::Strip> FactorView::Read(const Context& context, int64_t row, int64_t rows,
                                           int64_t column, int64_t columns,
                                           std::vector<float>* buffer) const {
  if (array_ != nullptr) return Strip{array_ + row * k_ + column, k_};
  const auto size = static_cast<size_t>(rows * columns);
  if (buffer->size() < size) buffer->resize(size);
  PW_TRY(panels_->Read(context, row, rows, column, columns, buffer->data(), columns));
  return Strip{buffer->data(), columns};
}

}  // namespace pennyweight
