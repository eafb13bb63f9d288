#include "formats/strided_rows.h"

#include <algorithm>
#include <cstring>

namespace pennyweight {
namespace {

constexpr uint64_t kWindow = 1 << 20;
// Gaps up to this many bytes are read over rather than jumped over by another system call.
constexpr uint64_t kSmallGap = 16 << 10;

// The last bytes that were read, with more behind them than were asked for.
class Window {
 public:
  // `end`: no byte at or behind it is read. `ahead`: bytes to read at a time.
  Window(const ReadFile& file, uint64_t end, uint64_t ahead)
      : file_(file), end_(end), ahead_(std::clamp<uint64_t>(ahead, 64, kWindow)) {}

  Status Copy(uint64_t offset, uint64_t bytes, uint8_t* to) {
    if (offset < begin_ || offset + bytes > begin_ + buffer_.size()) {
      buffer_.resize(std::max(bytes, std::min(ahead_, end_ - offset)));
      begin_ = offset;
      PW_TRY(file_.ReadAt(begin_, buffer_.data(), buffer_.size()));
    }
    std::memcpy(to, buffer_.data() + (offset - begin_), bytes);
    return OkStatus();
  }

 private:
  const ReadFile& file_;
  uint64_t end_;
  uint64_t ahead_;
  uint64_t begin_ = 0;
  std::vector<uint8_t> buffer_;
};

// Element offset of the first value of a row: the dimensions before the last one, counted down.
uint64_t RowStart(const Shape& shape, const Shape& strides, int64_t row) {
  uint64_t start = 0;
  for (size_t i = shape.size() - 1; i-- > 0;) {
    start += static_cast<uint64_t>(row % shape[i]) * static_cast<uint64_t>(strides[i]);
    row /= shape[i];
  }
  return start;
}

}  // namespace

bool IsContiguous(const Shape& shape, const Shape& strides) {
  int64_t expected = 1;
  for (const int64_t dimension : shape) {
    if (dimension == 0) return true;
  }
  for (size_t i = shape.size(); i-- > 0;) {
    // The stride of a single element is never used, and any.
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

Status ReadStridedRows(const ReadFile& file, uint64_t origin, uint64_t element_bytes,
                       const Shape& shape, const Shape& strides, int64_t row, int64_t count,
                       uint8_t* out) {
  if (count == 0 || (!shape.empty() && shape.back() == 0)) return OkStatus();
  const uint64_t cols = shape.empty() ? 1 : static_cast<uint64_t>(shape.back());
  const uint64_t col_step =
      (shape.empty() ? 0 : static_cast<uint64_t>(strides.back())) * element_bytes;
  const uint64_t row_bytes = cols * element_bytes;
  std::vector<uint64_t> starts(static_cast<size_t>(count));  // bytes in the file
  for (size_t r = 0; r < starts.size(); ++r) {
    const int64_t at = row + static_cast<int64_t>(r);
    starts[r] = origin + (shape.empty() ? 0 : RowStart(shape, strides, at) * element_bytes);
  }
  if (cols == 1 || col_step == element_bytes) {
    // Rows are whole: runs of them that follow each other are read at once.
    for (size_t r = 0; r < starts.size();) {
      size_t end = r + 1;
      while (end < starts.size() && starts[end] == starts[end - 1] + row_bytes) ++end;
      PW_TRY(file.ReadAt(starts[r], out + r * row_bytes, (end - r) * row_bytes));
      r = end;
    }
    return OkStatus();
  }
  const auto [low, high] = std::minmax_element(starts.begin(), starts.end());
  const uint64_t end = *high + (cols - 1) * col_step + element_bytes;
  const uint64_t row_span = (cols - 1) * col_step + element_bytes;
  const uint64_t column_span = *high - *low + element_bytes;
  // The order that moves least through the file is the outer loop's choice: of a transposed matrix
  // a column of the tile lies together.
  const bool by_column = column_span < row_span;
  const uint64_t inner = by_column ? column_span : row_span;
  const uint64_t step =
      by_column ? col_step : (*high - *low) / std::max<uint64_t>(starts.size() - 1, 1);
  Window window(file, end, step > inner + kSmallGap ? inner : kWindow);
  const auto copy = [&](uint64_t r, uint64_t c) {
    return window.Copy(starts[r] + c * col_step, element_bytes,
                       out + r * row_bytes + c * element_bytes);
  };
  if (by_column) {
    for (uint64_t c = 0; c < cols; ++c) {
      for (uint64_t r = 0; r < starts.size(); ++r) PW_TRY(copy(r, c));
    }
    return OkStatus();
  }
  for (uint64_t r = 0; r < starts.size(); ++r) {
    for (uint64_t c = 0; c < cols; ++c) PW_TRY(copy(r, c));
  }
  return OkStatus();
}

}  // namespace pennyweight
