#include "quant/grid.h"

#include <cstring>

#include "lib/dtype.h"
#include "quant/grid_types.h"

namespace pennyweight {

void BlockGrid::Encode(const float* w, const float* h, ScaleSearch search, uint8_t* out) {
  BeginBlock(w, h, search);
  alignas(kLaneAlign) float decoded[8 * kLanes];
  for (int64_t i = 0; i < block_; i += unit_) Round(i, w + i * kLanes, nullptr, 0, decoded);
  Pack(out);
}

namespace {

// In no order: each type is of one family.
constexpr std::unique_ptr<BlockGrid> (*kBlockFamilies[])(BlockType, Effort) = {
    MakeLegacyGrid,  MakeSymmetricKGrid, MakeIq4Grid,     MakeFP4Grid,
    MakeTernaryGrid, MakeIq1Grid,        MakeAffineKGrid, MakeIq23Grid,
};

}  // namespace

std::unique_ptr<BlockGrid> MakeGrid(const Encoding& encoding, int64_t cols, Effort effort) {
  if (cols <= 0) return nullptr;
  if (encoding.kind == Encoding::Kind::kInteger) {
    const IntegerSpec& spec = encoding.integer;
    if (spec.group_size < 0 || (spec.group_size > 0 && cols % spec.group_size != 0)) return nullptr;
    return MakeIntegerGrid(spec, cols, effort);
  }
  if (encoding.kind != Encoding::Kind::kBlock) return MakeElementGrid(encoding, cols);
  if (cols % TraitsOf(encoding.block).elements != 0) return nullptr;
  for (const auto make : kBlockFamilies) {
    if (auto grid = make(encoding.block, effort)) return grid;
  }
  return nullptr;
}

namespace {

// Blocks are short: memcpy with a length it learns at run time would cost more than the copy.
inline void CopyBlock(const uint8_t* from, int64_t bytes, void* to) {
  auto* out = static_cast<uint8_t*>(to);
  if (bytes < 16) {
    for (int64_t i = 0; i < bytes; ++i) out[i] = from[i];
    return;
  }
  for (int64_t i = 0; i + 16 <= bytes; i += 16) std::memcpy(out + i, from + i, 16);
  std::memcpy(out + bytes - 16, from + bytes - 16, 16);
}

}  // namespace

void StorePacked(const uint8_t* packed, int64_t row, int64_t b, EncodedTensor* out) {
  StorePackedLanes(packed, 0, row, 1, b, out);
}

void StorePackedLanes(const uint8_t* packed, int64_t packed_bytes, int64_t row, int64_t count,
                      int64_t b, EncodedTensor* out) {
  const Encoding& encoding = out->encoding;
  if (encoding.kind == Encoding::Kind::kBlock) {
    const BlockTraits& traits = TraitsOf(encoding.block);
    const int64_t stride = out->cols / traits.elements * traits.bytes;
    uint8_t* to = out->data.data() + row * stride + b * traits.bytes;
    for (int64_t l = 0; l < count; ++l, packed += packed_bytes, to += stride) {
      CopyBlock(packed, traits.bytes, to);
    }
    return;
  }
  if (encoding.kind != Encoding::Kind::kInteger) {
    // A byte for each code, then the scale.
    const bool is_book = encoding.kind == Encoding::Kind::kCodebook;
    const int64_t block = is_book ? encoding.codebook.block : encoding.scaled.block_cols;
    const int64_t width = block == 0 ? out->cols : block;
    const DType scale = is_book ? DType::kF32 : encoding.scaled.scale_dtype;
    const int64_t scale_bytes = DTypeBits(scale) / 8;
    auto* codes = is_book ? reinterpret_cast<uint8_t*>(out->codes.data()) : out->data.data();
    for (int64_t l = 0; l < count; ++l, packed += packed_bytes) {
      const int64_t at = (row + l) * (out->cols / width) + b;
      CopyBlock(packed, width, codes + at * width);
      std::memcpy(out->scales.data() + at * scale_bytes, packed + width,
                  static_cast<size_t>(scale_bytes));
    }
    return;
  }
  const IntegerSpec& spec = encoding.integer;
  const int64_t groups = spec.Groups(out->cols);
  const int64_t width = out->cols / groups;
  const int64_t scale_bytes = DTypeBits(spec.scale_dtype) / 8;
  for (int64_t l = 0; l < count; ++l, packed += packed_bytes) {
    const int64_t at = (row + l) * groups + b;
    CopyBlock(packed, width, out->codes.data() + (row + l) * out->cols + b * width);
    std::memcpy(out->scales.data() + at * scale_bytes, packed + width,
                static_cast<size_t>(scale_bytes));
    if (!spec.symmetric) std::memcpy(out->zeros.data() + at, packed + width + scale_bytes, 1);
  }
}

}  // namespace pennyweight
