#include "formats/gguf_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace pennyweight {

Result<RowOrder> RowOrder::Make(RowMap map, const ModelConfig& config, const Encoding& encoding,
                                const Shape& shape) {
  RowOrder order;
  if (map == RowMap::kNone) return order;
  const bool bias = shape.size() == 1;
  if (bias && encoding.kind != Encoding::Kind::kPlain) {
    return Error(ErrorCode::kUnsupported,
                 fmt::format("a bias in {} cannot be put in GGUF's order", encoding.Name()));
  }
  const int64_t units = shape.empty() ? 1 : shape[0];
  const int64_t heads = map == RowMap::kRopeQ ? config.heads : config.kv_heads;
  int64_t expected = 0;
  const bool fits = !__builtin_mul_overflow(heads, config.head_dim, &expected);
  if (shape.size() > 2 || !fits || units != expected || config.head_dim % 2 != 0) {
    return Error(ErrorCode::kConfigInvalid,
                 fmt::format("its shape is {}, the configuration has {} heads of {}",
                             ShapeToString(shape), heads, config.head_dim));
  }
  order.units_per_row_ = bias ? units : 1;
  order.block_ = config.head_dim;
  order.stored_.assign(static_cast<size_t>(units), 0);
  for (int64_t stored = 0; stored < units; ++stored) {
    order.stored_[static_cast<size_t>(CanonicalRow(map, config, stored))] = stored;
  }
  return order;
}

Status RowOrder::Read(const TensorBytesReader& read, uint64_t row_bytes, int64_t row, int64_t count,
                      uint8_t* to) const {
  if (stored_.empty()) {
    return read(static_cast<uint64_t>(row) * row_bytes, to,
                static_cast<uint64_t>(count) * row_bytes);
  }
  const uint64_t unit_bytes = row_bytes / static_cast<uint64_t>(units_per_row_);
  const int64_t end = (row + count) * units_per_row_;
  std::vector<uint8_t> span;  // what stands between the first and the last needed unit of a block
  for (int64_t unit = row * units_per_row_; unit < end;) {
    const int64_t stop = std::min(end, (unit / block_ + 1) * block_);
    const auto [low, high] = std::minmax_element(stored_.begin() + unit, stored_.begin() + stop);
    span.resize(static_cast<uint64_t>(*high - *low + 1) * unit_bytes);
    PW_TRY(read(static_cast<uint64_t>(*low) * unit_bytes, span.data(), span.size()));
    const int64_t first = *low;
    for (; unit < stop; ++unit) {
      const int64_t at = stored_[static_cast<size_t>(unit)] - first;
      std::memcpy(to, span.data() + static_cast<uint64_t>(at) * unit_bytes, unit_bytes);
      to += unit_bytes;
    }
  }
  return OkStatus();
}

Status RowOrder::Write(const TensorBytesWriter& write, uint64_t row_bytes, int64_t row,
                       int64_t count, const uint8_t* from) const {
  if (stored_.empty()) {
    return write(static_cast<uint64_t>(row) * row_bytes, from,
                 static_cast<uint64_t>(count) * row_bytes);
  }
  const uint64_t unit_bytes = row_bytes / static_cast<uint64_t>(units_per_row_);
  const int64_t end = (row + count) * units_per_row_;
  std::vector<uint8_t> whole;
  for (int64_t unit = row * units_per_row_; unit < end;) {
    const int64_t stop = std::min(end, (unit / block_ + 1) * block_);
    if (stop - unit == block_) {
      whole.resize(static_cast<uint64_t>(block_) * unit_bytes);
      for (int64_t i = 0; i < block_; ++i) {
        const int64_t at = stored_[static_cast<size_t>(unit + i)] - unit;
        std::memcpy(whole.data() + static_cast<uint64_t>(at) * unit_bytes,
                    from + static_cast<uint64_t>(i) * unit_bytes, unit_bytes);
      }
      PW_TRY(write(static_cast<uint64_t>(unit) * unit_bytes, whole.data(), whole.size()));
    } else {
      for (int64_t i = 0; i < stop - unit; ++i) {
        const int64_t at = stored_[static_cast<size_t>(unit + i)];
        PW_TRY(write(static_cast<uint64_t>(at) * unit_bytes,
                     from + static_cast<uint64_t>(i) * unit_bytes, unit_bytes));
      }
    }
    from += static_cast<uint64_t>(stop - unit) * unit_bytes;
    unit = stop;
  }
  return OkStatus();
}

}  // namespace pennyweight
