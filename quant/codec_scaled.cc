#include "quant/codec_scaled.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "lib/dtype.h"

namespace pennyweight {
namespace {

// Sign, `exponent` bits, `mantissa` bits; no special values.
float Minifloat(uint32_t bits, int exponent, int mantissa) {
  const int bias = (1 << (exponent - 1)) - 1;
  const bool negative = ((bits >> (exponent + mantissa)) & 1) != 0;
  const int e = static_cast<int>(bits >> mantissa) & ((1 << exponent) - 1);
  const int m = static_cast<int>(bits) & ((1 << mantissa) - 1);
  const int whole = e == 0 ? m : m + (1 << mantissa);
  const float value = std::ldexp(static_cast<float>(whole), (e == 0 ? 1 : e) - bias - mantissa);
  return negative ? -value : value;
}

using Table = std::array<float, 256>;

Table MakeTable(DType dtype) {
  Table table;
  for (uint32_t i = 0; i < 256; ++i) table[i] = SmallFloatValue(dtype, static_cast<uint8_t>(i));
  return table;
}

const Table& TableOf(DType dtype) {
  static const Table kE4M3 = MakeTable(DType::kF8E4M3);
  static const Table kE5M2 = MakeTable(DType::kF8E5M2);
  static const Table kE8M0 = MakeTable(DType::kF8E8M0);
  static const Table kInt8 = [] {
    Table table;
    for (int i = 0; i < 256; ++i) {
      table[static_cast<size_t>(i)] = static_cast<float>(static_cast<int8_t>(i));
    }
    return table;
  }();
  switch (dtype) {
    case DType::kF8E5M2:
      return kE5M2;
    case DType::kF8E8M0:
      return kE8M0;
    case DType::kI8:
      return kInt8;
    default:
      return kE4M3;
  }
}

float ScaleAt(DType dtype, const uint8_t* scales, int64_t at) {
  if (!IsFloatDType(dtype)) return TableOf(dtype)[scales[at]];
  float scale = 0;
  DecodeToFloat(dtype, scales + at * (DTypeBits(dtype) / 8), &scale, 1);
  return scale;
}

float LoadF32(const uint8_t* bytes) {
  float value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

float AbsmaxOf(const EncodedTensor& tile, int64_t block) {
  if (tile.encoding.codebook.nested_block == 0) return LoadF32(tile.scales.data() + block * 4);
  const NestedScales& nested = tile.nested;
  const int64_t group = (nested.first + block) / nested.block;
  const float value = nested.levels[tile.scales[static_cast<size_t>(block)]] *
                      nested.absmax[static_cast<size_t>(group)];
  return value + nested.offset;
}

}  // namespace

float SmallFloatValue(DType dtype, uint8_t bits) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  switch (dtype) {
    case DType::kF8E5M2:
      if ((bits & 0x7c) != 0x7c) return Minifloat(bits, 5, 2);
      if ((bits & 3) != 0) return kNan;
      return (bits & 0x80) != 0 ? -std::numeric_limits<float>::infinity()
                                : std::numeric_limits<float>::infinity();
    case DType::kF8E8M0:
      return bits == 255 ? kNan : std::ldexp(1.0f, static_cast<int>(bits) - 127);
    case DType::kF4:
      return Minifloat(bits & 15u, 2, 1);
    default:
      return (bits & 0x7f) == 0x7f ? kNan : Minifloat(bits, 4, 3);
  }
}

bool CanDecodeScaled(const ScaledSpec& spec) {
  const bool element = spec.element == DType::kF8E4M3 || spec.element == DType::kF8E5M2 ||
                       spec.element == DType::kI8 || spec.element == DType::kF4;
  const bool scale = IsFloatDType(spec.scale_dtype) || spec.scale_dtype == DType::kF8E4M3 ||
                     spec.scale_dtype == DType::kF8E8M0;
  return element && scale && spec.block_cols >= 0 && (!spec.absmax || spec.element == DType::kI8);
}

bool CanDecodeCodebook(const CodebookSpec& spec) { return spec.block > 0; }

void DecodeScaledRows(const EncodedTensor& tile, int64_t row, int64_t count, float* out) {
  const ScaledSpec& spec = tile.encoding.scaled;
  const int64_t cols = tile.cols;
  const int64_t groups = spec.Groups(cols);
  const int64_t width = spec.block_cols == 0 ? cols : spec.block_cols;
  const bool halves = spec.element == DType::kF4;
  const Table& values = TableOf(spec.element);
  constexpr float kOver127 = 1.0f / 127.0f;
  for (int64_t r = row; r < row + count; ++r, out += cols) {
    const uint8_t* bytes = tile.data.data() + (halves ? r * cols / 2 : r * cols);
    for (int64_t g = 0; g < groups; ++g) {
      const float stored = ScaleAt(spec.scale_dtype, tile.scales.data(), r * groups + g);
      const float scale = spec.divided ? stored / tile.divisor : stored;
      const int64_t end = std::min(cols, (g + 1) * width);
      for (int64_t c = g * width; c < end; ++c) {
        const float value =
            halves ? SmallFloatValue(DType::kF4, static_cast<uint8_t>(bytes[c / 2] >> (c % 2 * 4)))
                   : values[bytes[c]];
        out[c] = value * scale;
      }
    }
    for (int64_t c = 0; spec.absmax && c < cols; ++c) out[c] *= kOver127;
  }
}

void DecodeCodebookRows(const EncodedTensor& tile, int64_t row, int64_t count, float* out) {
  const int64_t block = tile.encoding.codebook.block;
  const int64_t begin = row * tile.cols;
  const int64_t end = begin + count * tile.cols;
  for (int64_t i = begin; i < end;) {
    const int64_t at = (tile.first + i) / block;
    const int64_t stop = std::min(end, (at + 1) * block - tile.first);
    const float absmax = AbsmaxOf(tile, at);
    for (; i < stop; ++i) {
      *out++ = tile.levels[static_cast<size_t>(tile.codes[static_cast<size_t>(i)] & 15)] * absmax;
    }
  }
}

}  // namespace pennyweight
