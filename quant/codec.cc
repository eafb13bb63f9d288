#include "quant/codec.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "lib/dtype.h"
#include "quant/codec_blocks.h"
#include "quant/codec_scaled.h"
#include "quant/decode_kernels.h"

namespace pennyweight {
namespace {

struct DecoderRow {
  BlockType type;
  BlockDecoder decode;
};

constexpr DecoderRow kDecoders[] = {
    {BlockType::kQ4_0, DecodeQ4_0},       {BlockType::kQ4_1, DecodeQ4_1},
    {BlockType::kQ5_0, DecodeQ5_0},       {BlockType::kQ5_1, DecodeQ5_1},
    {BlockType::kQ8_0, DecodeQ8_0},       {BlockType::kQ8_1, DecodeQ8_1},
    {BlockType::kQ2_K, DecodeQ2_K},       {BlockType::kQ3_K, DecodeQ3_K},
    {BlockType::kQ4_K, DecodeQ4_K},       {BlockType::kQ5_K, DecodeQ5_K},
    {BlockType::kQ6_K, DecodeQ6_K},       {BlockType::kQ8_K, DecodeQ8_K},
    {BlockType::kIQ1_S, DecodeIQ1_S},     {BlockType::kIQ1_M, DecodeIQ1_M},
    {BlockType::kIQ2_XXS, DecodeIQ2_XXS}, {BlockType::kIQ2_XS, DecodeIQ2_XS},
    {BlockType::kIQ2_S, DecodeIQ2_S},     {BlockType::kIQ3_XXS, DecodeIQ3_XXS},
    {BlockType::kIQ3_S, DecodeIQ3_S},     {BlockType::kIQ4_NL, DecodeIQ4_NL},
    {BlockType::kIQ4_XS, DecodeIQ4_XS},   {BlockType::kTQ1_0, DecodeTQ1_0},
    {BlockType::kTQ2_0, DecodeTQ2_0},     {BlockType::kQ1_0, DecodeQ1_0},
    {BlockType::kQ2_0, DecodeQ2_0},       {BlockType::kMXFP4, DecodeMXFP4},
    {BlockType::kNVFP4, DecodeNVFP4},
};

bool IsScaleDType(DType dtype) {
  return dtype == DType::kF16 || dtype == DType::kBF16 || dtype == DType::kF32;
}

// The same where a table says the group of each column.
void DecodeOrderedRow(const EncodedTensor& tile, int64_t row, std::vector<float>* scales,
                      float* out) {
  const IntegerSpec& spec = tile.encoding.integer;
  const int64_t groups = spec.Groups(tile.cols);
  const int64_t scale_bytes = DTypeBits(spec.scale_dtype) / 8;
  scales->resize(static_cast<size_t>(groups));
  DecodeToFloat(spec.scale_dtype, tile.scales.data() + row * groups * scale_bytes, scales->data(),
                scales->size());
  const int8_t* codes = tile.codes.data() + row * tile.cols;
  for (int64_t c = 0; c < tile.cols; ++c) {
    const auto g = static_cast<size_t>(tile.group_of_column[static_cast<size_t>(c)]);
    const int zero = spec.symmetric ? 0 : tile.zeros[static_cast<size_t>(row * groups) + g];
    out[c] = static_cast<float>(codes[c] - zero) * (*scales)[g];
  }
}

// value = (code - zero) * scale; the difference is taken in integers, so it is exact.
void DecodeIntegerRow(const EncodedTensor& tile, int64_t row, float* out) {
  const IntegerSpec& spec = tile.encoding.integer;
  const int64_t groups = spec.Groups(tile.cols);
  const int64_t width = spec.group_size == 0 ? tile.cols : spec.group_size;
  const int64_t scale_bytes = DTypeBits(spec.scale_dtype) / 8;
  for (int64_t g = 0; g < groups; ++g) {
    float scale = 0;
    const int64_t at = row * groups + g;
    DecodeToFloat(spec.scale_dtype, tile.scales.data() + at * scale_bytes, &scale, 1);
    const int zero = spec.symmetric ? 0 : tile.zeros[static_cast<size_t>(at)];
    const int8_t* codes = tile.codes.data() + row * tile.cols + g * width;
    for (int64_t i = 0; i < width; ++i) {
      out[g * width + i] = static_cast<float>(codes[i] - zero) * scale;
    }
  }
}

}  // namespace

BlockDecoder FindBlockDecoder(BlockType type) {
  for (const DecoderRow& row : kDecoders) {
    if (row.type == type) return row.decode;
  }
  return nullptr;
}

bool CanDecode(const Encoding& encoding) {
  switch (encoding.kind) {
    case Encoding::Kind::kPlain:
      return IsFloatDType(encoding.dtype);
    case Encoding::Kind::kBlock:
      return FindBlockDecoder(encoding.block) != nullptr;
    case Encoding::Kind::kInteger:
      return encoding.integer.bits >= 2 && encoding.integer.bits <= 8 &&
             IsScaleDType(encoding.integer.scale_dtype);
    case Encoding::Kind::kScaled:
      return CanDecodeScaled(encoding.scaled);
    case Encoding::Kind::kCodebook:
      return CanDecodeCodebook(encoding.codebook);
  }
  return false;
}

void DecodeRows(const EncodedTensor& tile, int64_t row, int64_t count, float* out) {
  const int64_t cols = tile.cols;
  switch (tile.encoding.kind) {
    case Encoding::Kind::kPlain: {
      const int64_t bytes = DTypeBits(tile.encoding.dtype) / 8;
      DecodeToFloat(tile.encoding.dtype, tile.data.data() + row * cols * bytes, out,
                    static_cast<size_t>(count * cols));
      return;
    }
    case Encoding::Kind::kBlock: {
      // Blocks lie along rows without gaps, so consecutive rows are one run of blocks.
      const BlockTraits& traits = TraitsOf(tile.encoding.block);
      const int64_t per_row = cols / traits.elements;
      const uint8_t* block = tile.data.data() + row * per_row * traits.bytes;
      if (const RunDecoder decode_run = FindRunDecoder(tile.encoding.block)) {
        return decode_run(block, count * per_row, out);
      }
      const BlockDecoder decode = FindBlockDecoder(tile.encoding.block);
      for (int64_t b = 0; b < count * per_row; ++b) {
        decode(block + b * traits.bytes, out + b * traits.elements);
      }
      return;
    }
    case Encoding::Kind::kInteger: {
      std::vector<float> scales;
      for (int64_t r = 0; r < count; ++r) {
        if (tile.encoding.integer.act_order) {
          DecodeOrderedRow(tile, row + r, &scales, out + r * cols);
        } else {
          DecodeIntegerRow(tile, row + r, out + r * cols);
        }
      }
      return;
    }
    case Encoding::Kind::kScaled:
      DecodeScaledRows(tile, row, count, out);
      return;
    case Encoding::Kind::kCodebook:
      DecodeCodebookRows(tile, row, count, out);
      return;
  }
}

Status ReadFloatRows(const TensorSource& source, size_t index, int64_t row, int64_t count,
                     float* out) {
  const TensorInfo& info = source.tensors()[index];
  if (!CanDecode(info.encoding)) {
    return Error(ErrorCode::kUnsupported,
                 "values of type " + info.encoding.Name() + " cannot be decoded")
        .InFile(info.file)
        .InTensor(info.name);
  }
  EncodedTensor tile;
  PW_TRY(source.ReadRows(index, row, count, &tile));
  DecodeRows(tile, 0, count, out);
  return OkStatus();
}

}  // namespace pennyweight
