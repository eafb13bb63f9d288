#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>

#include "lib/checked.h"
#include "lib/parallel.h"
#include "quant/method.h"
#include "quant/method_checks.h"
#include "quant/row_minmax.h"

namespace pennyweight {

Status CheckFiniteRow(const float* w, int64_t cols, int64_t row) {
  const int64_t c = FindNonFinite(w, cols);
  if (c < 0) return OkStatus();
  return Error(ErrorCode::kNonFinite, std::string(std::isnan(w[c]) ? "NaN" : "infinity") +
                                          " at row " + std::to_string(row) + ", column " +
                                          std::to_string(c))
      .Hint("list all such values with: pennyweight verify INPUT");
}

namespace {

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

constexpr int64_t kRowsPerTask = 4 * kLanes;

// Columns whose weights are turned into lanes together: long enough that a row is read in runs.
constexpr int64_t kPanel = 256;

// The error of the first row of [row, row + count) that is not finite, whatever order they were
// looked at.
Status CheckRows(const float* w, int64_t row, int64_t count, int64_t cols) {
  for (int64_t r = row; r < row + count; ++r) PW_TRY(CheckFiniteRow(w + r * cols, cols, r));
  return OkStatus();
}

// One task's buffers: kLanes rows, panel after panel.
class LaneRows {
 public:
  LaneRows(const Encoding& encoding, int64_t cols, Effort effort)
      : grid_(MakeGrid(encoding, cols, effort)),
        panel_(std::max(grid_->block(), std::min(cols, kPanel / grid_->block() * grid_->block()))),
        lanes_(panel_ * kLanes),
        packed_(static_cast<size_t>(grid_->packed_bytes() * kLanes)) {}

  // h[cols]: NormalizeImportance of each block. Weights are checked while they are in the cache.
  Status Encode(const float* w, int64_t row, int64_t count, const float* h, ScaleSearch search,
                EncodedTensor* out) {
    const int64_t width = grid_->block();
    for (int64_t c0 = 0; c0 < out->cols; c0 += panel_) {
      const int64_t n = std::min(panel_, out->cols - c0);
      const float* at = w + row * out->cols + c0;
      for (int64_t l = 0; l < count; ++l) {
        if (FindNonFinite(at + l * out->cols, n) >= 0) return CheckRows(w, row, count, out->cols);
      }
      LoadLanes(at, out->cols, count, n, lanes_.data());
      const bool last = c0 + n == out->cols;
      const int64_t next_row = last ? row + kLanes : row;
      const float* next = last ? w + std::min(next_row, out->rows) * out->cols : at + n;
      const int64_t next_count = std::min(kLanes, out->rows - next_row);
      for (int64_t c = 0; c < n; c += width) {
        Prefetch(next + c, out->cols, next_count, width);
        grid_->Encode(lanes_.data() + c * kLanes, h + c0 + c, search, packed_.data());
        StorePackedLanes(packed_.data(), grid_->packed_bytes(), row, count, (c0 + c) / width, out);
      }
    }
    return OkStatus();
  }

 private:
  // The searches run for long on weights in the cache: meanwhile those that come next arrive.
  static void Prefetch(const float* w, int64_t stride, int64_t count, int64_t n) {
    constexpr int64_t kLine = 16;
    if (n > kPanel) return;
    for (int64_t l = 0; l < count; ++l) {
      for (int64_t i = 0; i < n; i += kLine) __builtin_prefetch(w + l * stride + i);
    }
  }

  std::unique_ptr<BlockGrid> grid_;
  int64_t panel_;
  LaneArray<float> lanes_;
  std::vector<uint8_t> packed_;
};

}  // namespace

std::vector<float> BlockImportance(std::span<const float> importance, int64_t cols, int64_t width) {
  std::vector<float> h(static_cast<size_t>(cols));
  for (int64_t c = 0; c < cols; c += width) {
    const auto at = static_cast<size_t>(c);
    NormalizeImportance(
        importance.empty() ? importance : importance.subspan(at, static_cast<size_t>(width)), width,
        h.data() + at);
  }
  return h;
}

Status QuantizeRtn(const Context& context, const Encoding& encoding, const float* w, int64_t rows,
                   int64_t cols, std::span<const float> importance, ScaleSearch search,
                   EncodedTensor* out, Effort effort) {
  const bool plain = encoding.kind == Encoding::Kind::kPlain && IsFloatDType(encoding.dtype);
  const auto probe = plain ? nullptr : MakeGrid(encoding, cols, effort);
  if (!plain && probe == nullptr) {
    return Error(ErrorCode::kUnsupported, "rows of " + std::to_string(cols) +
                                              " columns cannot be written as " + encoding.Name());
  }
  out->Resize(encoding, rows, cols);
  if (plain) return CastRows(context, w, rows, cols, out);

  if (search == ScaleSearch::kMinMax && HasRowMinMax(encoding)) {
    return ParallelTry(context, rows, [&](int64_t r) -> Status {
      PW_TRY(CheckFiniteRow(w + r * cols, cols, r));
      EncodeRowMinMax(w + r * cols, r, out);
      return OkStatus();
    });
  }
  const std::vector<float> h = BlockImportance(importance, cols, probe->block());
  return ParallelTry(context, CeilDiv(rows, kRowsPerTask), [&](int64_t task) -> Status {
    LaneRows lanes(encoding, cols, effort);
    const int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
    for (int64_t r = task * kRowsPerTask; r < end; r += kLanes) {
      const int64_t count = std::min(kLanes, end - r);
      PW_TRY(lanes.Encode(w, r, count, h.data(), search, out));
    }
    return OkStatus();
  });
}

}  // namespace pennyweight
