#include "lib/tensor_source.h"

#include <algorithm>
#include <cstring>

namespace pennyweight {

Status TensorSource::ReadColumns(size_t index, int64_t row, int64_t count, int64_t col,
                                 int64_t cols, EncodedTensor* out) const {
  constexpr int64_t kBytesAtOnce = 1 << 22;
  const TensorInfo& info = tensors()[index];
  const int64_t bytes = DTypeBits(info.encoding.dtype) / 8;
  const int64_t width = info.cols() * bytes;
  const int64_t step = std::max<int64_t>(1, kBytesAtOnce / std::max<int64_t>(1, width));
  out->encoding = info.encoding;
  out->rows = count;
  out->cols = cols;
  out->data.resize(static_cast<size_t>(count * cols * bytes));
  EncodedTensor rows;
  for (int64_t done = 0; done < count; done += step) {
    const int64_t n = std::min(step, count - done);
    PW_TRY(ReadRows(index, row + done, n, &rows));
    for (int64_t r = 0; r < n; ++r) {
      std::memcpy(out->data.data() + (done + r) * cols * bytes,
                  rows.data.data() + r * width + col * bytes, static_cast<size_t>(cols * bytes));
    }
  }
  return OkStatus();
}

int64_t TensorSource::Find(std::string_view name) const {
  const auto& list = tensors();
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i].name == name) return static_cast<int64_t>(i);
  }
  return -1;
}

}  // namespace pennyweight
