#include "quant/grid.h"

#include <cstring>

#include "lib/dtype.h"
#include "quant/grid_types.h"
#include "quant/row_grids.h"

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
    MakeLegacyGrid,
};

}  // namespace

std::unique_ptr<BlockGrid> MakeGrid(const Encoding& encoding, int64_t cols, Effort effort) {
  if (cols <= 0) return nullptr;
  if (encoding.kind == Encoding::Kind::kInteger) {
    const IntegerSpec& spec = encoding.integer;
    if (spec.group_size < 0 || (spec.group_size > 0 && cols % spec.group_size != 0)) return nullptr;
    return MakeIntegerGrid(spec, cols, effort);
  }
  if (encoding.kind != Encoding::Kind::kBlock) return nullptr;
  if (cols % TraitsOf(encoding.block).elements != 0) return nullptr;
  for (const auto make : kBlockFamilies) {
    if (auto grid = make(encoding.block, effort)) return grid;
  }
  return MakeRowGridLanes(encoding, cols);
}

void StorePacked(const uint8_t* packed, int64_t row, int64_t b, EncodedTensor* out) {
  const Encoding& encoding = out->encoding;
  if (encoding.kind == Encoding::Kind::kBlock) {
    const BlockTraits& traits = TraitsOf(encoding.block);
    std::memcpy(out->data.data() + (row * (out->cols / traits.elements) + b) * traits.bytes, packed,
                static_cast<size_t>(traits.bytes));
    return;
  }
  const IntegerSpec& spec = encoding.integer;
  const int64_t groups = spec.Groups(out->cols);
  const int64_t width = out->cols / groups;
  const int64_t scale_bytes = DTypeBits(spec.scale_dtype) / 8;
  const int64_t at = row * groups + b;
  std::memcpy(out->codes.data() + row * out->cols + b * width, packed, static_cast<size_t>(width));
  std::memcpy(out->scales.data() + at * scale_bytes, packed + width,
              static_cast<size_t>(scale_bytes));
  if (!spec.symmetric) {
    std::memcpy(out->zeros.data() + at, packed + width + scale_bytes, 1);
  }
}

}  // namespace pennyweight
