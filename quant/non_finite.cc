#include "quant/non_finite.h"

#include <fmt/format.h>

#include <cassert>
#include <cmath>
#include <cstring>
#include <utility>

#include "lib/dtype.h"
#include "quant/codec.h"

namespace pennyweight {
namespace {

// Zeroes the elements whose exponent bits are all set: those are NaN and infinity in every IEEE
// format. Returns how many there were.
template <class Word>
int64_t ZeroNonFinite(uint8_t* bytes, int64_t count, Word exponent) {
  int64_t found = 0;
  for (int64_t i = 0; i < count; ++i) {
    Word word;
    std::memcpy(&word, bytes + static_cast<size_t>(i) * sizeof(Word), sizeof(Word));
    if ((word & exponent) != exponent) continue;
    std::memset(bytes + static_cast<size_t>(i) * sizeof(Word), 0, sizeof(Word));
    ++found;
  }
  return found;
}

int64_t ZeroRow(DType dtype, uint8_t* row, int64_t cols) {
  switch (dtype) {
    case DType::kF16:
      return ZeroNonFinite<uint16_t>(row, cols, 0x7c00);
    case DType::kBF16:
      return ZeroNonFinite<uint16_t>(row, cols, 0x7f80);
    default:
      return ZeroNonFinite<uint32_t>(row, cols, 0x7f800000);
  }
}

}  // namespace

int64_t ReplaceNonFinite(float* w, int64_t count) {
  return ZeroRow(DType::kF32, reinterpret_cast<uint8_t*>(w), count);
}

Error LocateNonFinite(Error error, const float* w, int64_t rows, int64_t cols, int64_t first_row) {
  if (error.code != ErrorCode::kNonFinite) return error;
  for (int64_t i = 0; i < rows * cols; ++i) {
    if (std::isfinite(w[i])) continue;
    error.message =
        fmt::format("{} at element {} (row {}, column {})", std::isnan(w[i]) ? "NaN" : "infinity",
                    first_row * cols + i, first_row + i / cols, i % cols);
    error.hint =
        "list all such values with: pennyweight verify INPUT; or quantize them as zero with "
        "--allow-nan";
    break;
  }
  return error;
}

void CastTile(const Encoding& encoding, const float* w, int64_t rows, int64_t cols,
              EncodedTensor* out) {
  assert(encoding.kind == Encoding::Kind::kPlain && IsFloatDType(encoding.dtype));
  *out = EncodedTensor::Allocate(encoding, rows, cols);
  EncodeFromFloat(encoding.dtype, w, out->data.data(), static_cast<size_t>(rows * cols));
}

FiniteSource::FiniteSource(std::unique_ptr<TensorSource> source, std::vector<char> marked)
    : source_(std::move(source)),
      marked_(std::move(marked)),
      tensors_(source_->tensors()),
      found_(tensors_.size()) {
  assert(marked_.size() == tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (!marked_[i]) continue;
    assert(CanDecode(tensors_[i].encoding));
    if (tensors_[i].encoding.kind != Encoding::Kind::kPlain) {
      tensors_[i].encoding = Encoding::Plain(DType::kF32);
    }
  }
}

Status FiniteSource::ReadRows(size_t index, int64_t row, int64_t count, EncodedTensor* out) const {
  PW_TRY(source_->ReadRows(index, row, count, out));
  if (!marked_[index]) return OkStatus();
  if (out->encoding.kind != Encoding::Kind::kPlain) {
    EncodedTensor decoded = EncodedTensor::Allocate(tensors_[index].encoding, count, out->cols);
    DecodeRows(*out, 0, count, reinterpret_cast<float*>(decoded.data.data()));
    *out = std::move(decoded);
  }
  const size_t row_bytes = count == 0 ? 0 : out->data.size() / static_cast<size_t>(count);
  for (int64_t r = 0; r < count; ++r) {
    uint8_t* const bytes = out->data.data() + static_cast<size_t>(r) * row_bytes;
    const int64_t found = ZeroRow(out->encoding.dtype, bytes, out->cols);
    if (found == 0) continue;
    const std::lock_guard<std::mutex> lock(mutex_);
    found_[index][row + r] = found;
  }
  return OkStatus();
}

int64_t FiniteSource::replaced(size_t index) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  int64_t total = 0;
  for (const auto& [row, count] : found_[index]) total += count;
  return total;
}

}  // namespace pennyweight
