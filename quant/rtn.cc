#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>

#include "lib/checked.h"
#include "lib/parallel.h"
#include "quant/encode_codebook.h"
#include "quant/encode_scaled.h"
#include "quant/method.h"
#include "quant/method_checks.h"

namespace pennyweight {

Status CheckFiniteRow(const float* w, int64_t cols, int64_t row) {
  for (int64_t c = 0; c < cols; ++c) {
    if (!std::isfinite(w[c])) {
      return Error(ErrorCode::kNonFinite, std::string(std::isnan(w[c]) ? "NaN" : "infinity") +
                                              " at row " + std::to_string(row) + ", column " +
                                              std::to_string(c))
          .Hint("list all such values with: pennyweight verify INPUT");
    }
  }
  return OkStatus();
}

namespace {

constexpr int64_t kRowsPerTask = 16;

Status CastRows(const Context& context, const float* w, int64_t rows, int64_t cols,
                EncodedTensor* out) {
  const DType dtype = out->encoding.dtype;
  const int64_t row_bytes = cols * DTypeBits(dtype) / 8;
  return ParallelTry(context, rows, [&](int64_t r) -> Status {
    PW_TRY(CheckFiniteRow(w + r * cols, cols, r));
    EncodeFromFloat(dtype, w + r * cols, out->data.data() + r * row_bytes,
                    static_cast<size_t>(cols));
    return OkStatus();
  });
}

}  // namespace

Status QuantizeRtn(const Context& context, const Encoding& encoding, const float* w, int64_t rows,
                   int64_t cols, std::span<const float> importance, ScaleSearch search,
                   EncodedTensor* out, std::optional<float> tensor_scale) {
  if (CanEncodeScaled(encoding, cols)) {
    if (HasTensorScale(encoding) && !tensor_scale) {
      const auto rows_themselves = [&](const RowVisitor& visit) { return visit(w, rows); };
      PW_ASSIGN(tensor_scale,
                FindTensorScale(context, encoding, cols, importance, search, rows_themselves));
    }
    return EncodeScaled(context, encoding, tensor_scale.value_or(1), w, rows, cols, importance,
                        search, out);
  }
  if (CanEncodeCodebook(encoding)) {
    return EncodeCodebook(context, encoding, w, rows, cols, importance, search, out);
  }
  const bool plain = encoding.kind == Encoding::Kind::kPlain && IsFloatDType(encoding.dtype);
  if (!plain && MakeGrid(encoding, cols) == nullptr) {
    return Error(ErrorCode::kUnsupported, "rows of " + std::to_string(cols) +
                                              " columns cannot be written as " + encoding.Name());
  }
  *out = EncodedTensor::Allocate(encoding, rows, cols);
  if (plain) return CastRows(context, w, rows, cols, out);

  return ParallelTry(context, CeilDiv(rows, kRowsPerTask), [&](int64_t task) -> Status {
    const auto grid = MakeGrid(encoding, cols);
    const int64_t width = grid->block();
    const int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
    for (int64_t r = task * kRowsPerTask; r < end; ++r) {
      const float* row = w + r * cols;
      PW_TRY(CheckFiniteRow(row, cols, r));
      for (int64_t b = 0; b < cols / width; ++b) {
        const auto n = static_cast<size_t>(width);
        const float* block = row + b * width;
        const auto weights = importance.empty()
                                 ? std::span<const float>()
                                 : importance.subspan(static_cast<size_t>(b * width), n);
        grid->BeginBlock({block, n}, weights, search);
        for (int64_t i = 0; i < width; ++i) grid->Round(i, block[i]);
        grid->Pack(out, r, b);
      }
    }
    return OkStatus();
  });
}

}  // namespace pennyweight
