#include "quant/repack.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "lib/dtype.h"
#include "quant/codec.h"
#include "quant/codec_blocks.h"

namespace pennyweight {
namespace {

constexpr int64_t kBlockCols = 32;

// One block from codes that count from 0.
void PackBlock(BlockType type, const uint8_t* codes, uint8_t* block) {
  const bool affine = type == BlockType::kQ4_1 || type == BlockType::kQ5_1;
  const bool fifth = type == BlockType::kQ5_0 || type == BlockType::kQ5_1;
  uint8_t* at = block + (affine ? 4 : 2);
  if (fifth) {
    uint32_t high = 0;
    for (int i = 0; i < kBlockCols; ++i) high |= static_cast<uint32_t>(codes[i] >> 4 & 1) << i;
    std::memcpy(at, &high, sizeof(high));
    at += sizeof(high);
  }
  for (int j = 0; j < 16; ++j) {
    at[j] = static_cast<uint8_t>((codes[j] & 15) | (codes[j + 16] & 15) << 4);
  }
}

// What 0 stands for in the block type's own codes.
int OffsetOf(BlockType type) {
  switch (type) {
    case BlockType::kQ4_0:
    case BlockType::kQ4_1:
      return 8;
    case BlockType::kQ5_0:
    case BlockType::kQ5_1:
      return 16;
    default:
      return 0;
  }
}

void PackGroupBlock(BlockType type, const int8_t* codes, float scale, int zero, uint8_t* block) {
  StoreF16(scale, block);
  if (type == BlockType::kQ8_0) {
    std::memcpy(block + 2, codes, kBlockCols);
    return;
  }
  const int offset = OffsetOf(type);
  if (type == BlockType::kQ4_1 || type == BlockType::kQ5_1) {
    StoreF16(-static_cast<float>(zero + offset) * scale, block + 2);
  }
  uint8_t shifted[kBlockCols];
  for (int i = 0; i < kBlockCols; ++i) shifted[i] = static_cast<uint8_t>(codes[i] + offset);
  PackBlock(type, shifted, block);
}

}  // namespace

std::optional<BlockType> FindRepack(const Encoding& from, int64_t cols, std::string* why_not) {
  const auto no = [&](std::string why) {
    *why_not = std::move(why);
    return std::nullopt;
  };
  if (from.kind != Encoding::Kind::kInteger) {
    return no(fmt::format("no GGUF type holds {} exactly: decoded", from.Name()));
  }
  const IntegerSpec& spec = from.integer;
  if (spec.act_order) return no("its groups are in activation order, GGUF blocks are not: decoded");
  const int64_t group = spec.group_size == 0 ? cols : spec.group_size;
  if (group % kBlockCols != 0) {
    return no(fmt::format("groups of {} are no multiple of 32, a GGUF block: decoded", group));
  }
  if (spec.bits <= 4) return spec.symmetric ? BlockType::kQ4_0 : BlockType::kQ4_1;
  if (spec.bits == 5) return spec.symmetric ? BlockType::kQ5_0 : BlockType::kQ5_1;
  if (spec.symmetric) return BlockType::kQ8_0;
  return no(fmt::format("no GGUF type holds {} bits with zero points: decoded", spec.bits));
}

bool RepackRows(const EncodedTensor& from, BlockType to, EncodedTensor* out) {
  const IntegerSpec& spec = from.encoding.integer;
  const int64_t groups = spec.Groups(from.cols);
  const int64_t blocks = from.cols / kBlockCols;
  const int64_t bytes = TraitsOf(to).bytes;
  out->Reset(Encoding::Block(to), from.rows, from.cols);
  std::vector<float> scales(static_cast<size_t>(groups));
  std::vector<float> want(static_cast<size_t>(from.cols)), have(want.size());
  for (int64_t r = 0; r < from.rows; ++r) {
    const int64_t first = r * groups;
    DecodeToFloat(spec.scale_dtype, from.scales.data() + first * (DTypeBits(spec.scale_dtype) / 8),
                  scales.data(), scales.size());
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t g = b * groups / blocks;
      const int zero = spec.symmetric ? 0 : from.zeros[static_cast<size_t>(first + g)];
      PackGroupBlock(to, from.codes.data() + r * from.cols + b * kBlockCols,
                     scales[static_cast<size_t>(g)], zero,
                     out->data.data() + (r * blocks + b) * bytes);
    }
    DecodeRows(from, r, 1, want.data());
    DecodeRows(*out, r, 1, have.data());
    // Equal numbers; a NaN, which an infinite scale makes, is equal to nothing.
    if (!std::equal(want.begin(), want.end(), have.begin())) return false;
  }
  return true;
}

}  // namespace pennyweight
