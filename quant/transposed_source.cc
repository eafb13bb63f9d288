#include "quant/transposed_source.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <utility>

#include "lib/dtype.h"
#include "quant/codec.h"

namespace pennyweight {
namespace {

class TransposedSource : public TensorSource {
 public:
  TransposedSource(std::unique_ptr<TensorSource> source, DType dtype)
      : source_(std::move(source)), tensors_(source_->tensors()), dtype_(dtype) {
    for (TensorInfo& info : tensors_) {
      if (!info.transposed) continue;
      std::swap(info.shape[info.shape.size() - 2], info.shape.back());
      info.encoding = Encoding::Plain(dtype);
      info.transposed = false;
    }
  }

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  std::string_view format() const override { return source_->format(); }
  const std::map<std::string, std::string>& metadata() const override {
    return source_->metadata();
  }
  const std::vector<std::string>& files() const override { return source_->files(); }

  Status ReadRows(size_t index, int64_t row, int64_t count, EncodedTensor* out) const override {
    if (!source_->tensors()[index].transposed) return source_->ReadRows(index, row, count, out);
    const TensorInfo& info = tensors_[index];
    const int64_t height = info.shape[info.shape.size() - 2];
    const int64_t row_bytes = info.cols() * (DTypeBits(dtype_) / 8);
    out->encoding = info.encoding;
    out->rows = count;
    out->cols = info.cols();
    out->data.resize(static_cast<size_t>(count * row_bytes));
    for (int64_t done = 0; done < count;) {
      const int64_t matrix = (row + done) / height;
      const int64_t first = (row + done) % height;
      const int64_t n = std::min(count - done, height - first);
      PW_ASSIGN(const Bytes bytes, Matrix(index, matrix));
      std::memcpy(out->data.data() + done * row_bytes, bytes->data() + first * row_bytes,
                  static_cast<size_t>(n * row_bytes));
      done += n;
    }
    return OkStatus();
  }

 private:
  using Bytes = std::shared_ptr<const std::vector<uint8_t>>;
  struct Kept {
    size_t index = 0;
    int64_t matrix = -1;
    Bytes bytes;
  };

  // One matrix, decoded and transposed. Whoever needs it meanwhile waits: making it twice would
  // take as long.
  Result<Bytes> Matrix(size_t index, int64_t matrix) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const Kept& kept : kept_) {
      if (kept.index == index && kept.matrix == matrix) return kept.bytes;
    }
    PW_ASSIGN(Bytes bytes, Decode(index, matrix));
    kept_[next_] = {index, matrix, bytes};
    next_ = (next_ + 1) % kept_.size();
    return bytes;
  }

  Result<Bytes> Decode(size_t index, int64_t matrix) const {
    const TensorInfo& stored = source_->tensors()[index];
    const int64_t rows = stored.shape[stored.shape.size() - 2];
    const int64_t cols = stored.cols();
    const auto element = static_cast<size_t>(DTypeBits(dtype_) / 8);
    auto bytes = std::make_shared<std::vector<uint8_t>>(static_cast<size_t>(rows * cols) * element);
    constexpr int64_t kRows = 32;
    std::vector<float> values(static_cast<size_t>(kRows * cols));
    std::vector<uint8_t> cast(values.size() * element);
    for (int64_t row = 0; row < rows; row += kRows) {
      const int64_t n = std::min(kRows, rows - row);
      PW_TRY(ReadFloatRows(*source_, index, matrix * rows + row, n, values.data()));
      EncodeFromFloat(dtype_, values.data(), cast.data(), static_cast<size_t>(n * cols));
      for (int64_t c = 0; c < cols; ++c) {
        uint8_t* to = bytes->data() + static_cast<size_t>(c * rows + row) * element;
        for (int64_t r = 0; r < n; ++r) {
          std::memcpy(to + static_cast<size_t>(r) * element,
                      cast.data() + static_cast<size_t>(r * cols + c) * element, element);
        }
      }
    }
    return Bytes(std::move(bytes));
  }

  std::unique_ptr<TensorSource> source_;
  std::vector<TensorInfo> tensors_;
  DType dtype_;
  mutable std::mutex mutex_;
  mutable std::array<Kept, 2> kept_;
  mutable size_t next_ = 0;
};

}  // namespace

std::unique_ptr<TensorSource> MakeCanonical(std::unique_ptr<TensorSource> source, DType dtype) {
  const auto& list = source->tensors();
  const bool any =
      std::any_of(list.begin(), list.end(), [](const TensorInfo& info) { return info.transposed; });
  if (!any) return source;
  return std::make_unique<TransposedSource>(std::move(source), dtype);
}

}  // namespace pennyweight
