#include "quant/tensor_scan.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "lib/dtype.h"

namespace pennyweight {
namespace {

// Stays in the first-level cache between hashing and scanning.
constexpr uint64_t kRun = 24 << 10;

enum class ScaleKind : uint8_t { kF16, kF32, kPacked, kE8M0, kUE4M3 };

// Where the scales of a block stand. Source: the block structs of ggml-common.h, as in the GGUF
// specification; which of them must be finite: ggml_validate_row_data.
struct BlockScales {
  BlockType type;
  ScaleKind kind;
  int32_t offset;     // of the first, bytes from the block's start
  int32_t count;      // one behind the other
  int zero_code;      // byte that stands for codes that are all 0; -1: none, or not looked at
  int32_t codes = 0;  // offset of those bytes, which end at `codes_end`
  int32_t codes_end = 0;
};

constexpr std::array kBlockScales = {
    BlockScales{BlockType::kQ4_0, ScaleKind::kF16, 0, 1, 0x88, 2, 18},
    BlockScales{BlockType::kQ4_1, ScaleKind::kF16, 0, 2, -1},
    BlockScales{BlockType::kQ5_0, ScaleKind::kF16, 0, 1, -1},
    BlockScales{BlockType::kQ5_1, ScaleKind::kF16, 0, 2, -1},
    BlockScales{BlockType::kQ8_0, ScaleKind::kF16, 0, 1, 0, 2, 34},
    BlockScales{BlockType::kQ8_1, ScaleKind::kF16, 0, 2, -1},
    BlockScales{BlockType::kQ2_K, ScaleKind::kF16, 80, 2, -1},
    BlockScales{BlockType::kQ3_K, ScaleKind::kF16, 108, 1, -1},
    BlockScales{BlockType::kQ4_K, ScaleKind::kF16, 0, 2, -1},
    BlockScales{BlockType::kQ5_K, ScaleKind::kF16, 0, 2, -1},
    BlockScales{BlockType::kQ6_K, ScaleKind::kF16, 208, 1, -1},
    BlockScales{BlockType::kQ8_K, ScaleKind::kF32, 0, 1, 0, 4, 260},
    BlockScales{BlockType::kIQ2_XXS, ScaleKind::kF16, 0, 1, -1},
    BlockScales{BlockType::kIQ2_XS, ScaleKind::kF16, 0, 1, -1},
    BlockScales{BlockType::kIQ3_XXS, ScaleKind::kF16, 0, 1, -1},
    BlockScales{BlockType::kIQ1_S, ScaleKind::kF16, 0, 1, -1},
    BlockScales{BlockType::kIQ4_NL, ScaleKind::kF16, 0, 1, -1},
    BlockScales{BlockType::kIQ3_S, ScaleKind::kF16, 0, 1, -1},
    BlockScales{BlockType::kIQ2_S, ScaleKind::kF16, 0, 1, -1},
    BlockScales{BlockType::kIQ4_XS, ScaleKind::kF16, 0, 1, -1},
    BlockScales{BlockType::kIQ1_M, ScaleKind::kPacked, 48, 1, -1},
    BlockScales{BlockType::kTQ1_0, ScaleKind::kF16, 52, 1, -1},
    BlockScales{BlockType::kTQ2_0, ScaleKind::kF16, 64, 1, 0x55, 0, 64},
    BlockScales{BlockType::kMXFP4, ScaleKind::kE8M0, 0, 1, -1},
    BlockScales{BlockType::kNVFP4, ScaleKind::kUE4M3, 0, 4, -1},
    BlockScales{BlockType::kQ1_0, ScaleKind::kF16, 0, 1, -1},
    BlockScales{BlockType::kQ2_0, ScaleKind::kF16, 0, 1, 0x55, 2, 18},
};

uint16_t Load16(const uint8_t* from) {
  uint16_t bits;
  std::memcpy(&bits, from, 2);
  return bits;
}

struct ScaleState {
  bool bad = false;
  bool zero = true;
};

ScaleState ReadScales(const BlockScales& row, const uint8_t* block) {
  ScaleState state;
  const uint8_t* at = block + row.offset;
  for (int32_t i = 0; i < row.count; ++i) {
    switch (row.kind) {
      case ScaleKind::kF16: {
        const uint16_t bits = Load16(at + 2 * i);
        state.bad |= (bits & 0x7C00) == 0x7C00;
        state.zero &= (bits & 0x7FFF) == 0;
        break;
      }
      case ScaleKind::kF32: {
        uint32_t bits;
        std::memcpy(&bits, at + 4 * i, 4);
        state.bad |= (bits & 0x7F800000) == 0x7F800000;
        state.zero &= (bits & 0x7FFFFFFF) == 0;
        break;
      }
      case ScaleKind::kPacked: {  // the fp16 in the top four bits of four words
        const unsigned bits = (Load16(at) >> 12u) | ((Load16(at + 2) >> 8u) & 0x00F0u) |
                              ((Load16(at + 4) >> 4u) & 0x0F00u) | (Load16(at + 6) & 0xF000u);
        state.bad |= (bits & 0x7C00) == 0x7C00;
        state.zero &= (bits & 0x7FFF) == 0;
        break;
      }
      case ScaleKind::kE8M0:  // 0 is 2^-127
        state.bad |= at[i] == 0xFF;
        state.zero = false;
        break;
      case ScaleKind::kUE4M3:  // 0x7F is NaN, and the sign has no meaning
        state.bad |= at[i] >= 0x7F;
        state.zero &= at[i] == 0;
        break;
    }
  }
  return state;
}

const BlockScales& ScalesOf(BlockType type) {
  return *std::find_if(kBlockScales.begin(), kBlockScales.end(),
                       [&](const BlockScales& row) { return row.type == type; });
}

// Scales as floats; other dtypes (E8M0) by their special values alone.
float ScaleValue(DType dtype, const uint8_t* from) {
  if (IsFloatDType(dtype)) {
    float value;
    DecodeToFloat(dtype, from, &value, 1);
    return value;
  }
  return 1;
}

// What the tensor's own values are, or else its scales.
DType ScannedDType(const Encoding& encoding) {
  switch (encoding.kind) {
    case Encoding::Kind::kPlain:
      return encoding.dtype;
    case Encoding::Kind::kScaled:
      return encoding.scaled.scale_dtype;
    case Encoding::Kind::kCodebook:  // nested: bytes that stand in a table
      return encoding.codebook.nested_block == 0 ? DType::kF32 : DType::kU8;
    case Encoding::Kind::kBlock:
    case Encoding::Kind::kInteger:
      break;
  }
  return encoding.integer.scale_dtype;
}

}  // namespace

TensorScanner::TensorScanner(const TensorInfo& info)
    : encoding_(info.encoding), special_(SpecialValuesOf(ScannedDType(info.encoding))) {}

void TensorScanner::Add(const EncodedTensor& tile) {
  if (!tile.codes.empty() || !tile.scales.empty() || !tile.zeros.empty()) {
    in_parts_ = true;
    code_hash_.Update(tile.codes.data(), tile.codes.size());
    scale_hash_.Update(tile.scales.data(), tile.scales.size());
    zero_hash_.Update(tile.zeros.data(), tile.zeros.size());
    AddGroups(tile);
  }
  const bool blocks = encoding_.kind == Encoding::Kind::kBlock;
  const bool plain = encoding_.kind == Encoding::Kind::kPlain;
  const uint64_t unit = blocks  ? static_cast<uint64_t>(TraitsOf(encoding_.block).bytes)
                        : plain ? special_.bytes
                                : 1;
  const uint64_t run = kRun / unit * unit;
  for (uint64_t at = 0; at < tile.data.size(); at += run) {
    const uint64_t n = std::min(run, tile.data.size() - at);
    hash_.Update(tile.data.data() + at, n);
    if (blocks) AddBlocks(tile.data.data() + at, n);
    if (plain) AddPlain(tile.data.data() + at, n);
  }
}

void TensorScanner::AddPlain(const uint8_t* data, uint64_t bytes) {
  const size_t count = bytes / special_.bytes;
  if (count == 0) return;
  if (fresh_) std::memcpy(&first_, data, special_.bytes);  // little-endian
  fresh_ = false;
  const ValueFacts facts = ScanValues(data, count, special_, first_);
  any_ |= facts.any;
  differ_ |= facts.differ;
  if (special_.least != 0 && facts.largest >= special_.least) Locate(data, count);
  if (encoding_.dtype == DType::kF32 && fits_f16_) fits_f16_ = AllFitF16(data, count);
  at_ += static_cast<int64_t>(count);
}

void TensorScanner::Locate(const uint8_t* data, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    uint64_t bits = 0;
    std::memcpy(&bits, data + i * special_.bytes, special_.bytes);
    const uint64_t m = (bits ^ special_.flip) & special_.mask;
    if (m < special_.least) continue;
    const bool infinite = special_.infinity != 0 && m == special_.infinity;
    (infinite ? scan_.inf : scan_.nan).Add(at_ + static_cast<int64_t>(i));
  }
}

void TensorScanner::AddBlocks(const uint8_t* data, uint64_t bytes) {
  const BlockScales& row = ScalesOf(encoding_.block);
  const uint64_t block_bytes = static_cast<uint64_t>(TraitsOf(encoding_.block).bytes);
  for (uint64_t at = 0; at + block_bytes <= bytes; at += block_bytes, ++at_) {
    const uint8_t* block = data + at;
    const ScaleState state = ReadScales(row, block);
    if (state.bad) scan_.bad_scales.Add(at_);
    nonzero_ |= !state.zero;
    if (!state.zero || row.zero_code < 0) continue;
    const bool lost = std::any_of(block + row.codes, block + row.codes_end,
                                  [&](uint8_t byte) { return byte != row.zero_code; });
    if (lost) scan_.lost_codes.Add(at_);
  }
}

void TensorScanner::AddGroups(const EncodedTensor& tile) {
  const DType dtype = ScannedDType(tile.encoding);
  const bool integers = tile.encoding.kind == Encoding::Kind::kInteger;
  const uint64_t groups = tile.scales.size() / special_.bytes;
  if (groups == 0 || tile.rows == 0) return;
  const uint64_t per_row = groups / static_cast<uint64_t>(tile.rows);
  const uint64_t codes = per_row == 0 ? 0 : static_cast<uint64_t>(tile.cols) / per_row;
  for (uint64_t g = 0; g < groups; ++g, ++at_) {
    const uint8_t* from = tile.scales.data() + g * special_.bytes;
    uint64_t bits = 0;
    std::memcpy(&bits, from, special_.bytes);
    if (special_.least != 0 && ((bits ^ special_.flip) & special_.mask) >= special_.least) {
      scan_.bad_scales.Add(at_);
      nonzero_ = true;
      continue;
    }
    const float scale = ScaleValue(dtype, from);
    if (scale < 0) scan_.negative_scales.Add(at_);
    nonzero_ |= scale != 0;
    if (!integers || scale != 0 || (g + 1) * codes > tile.codes.size()) continue;
    const auto begin = tile.codes.begin() + static_cast<std::ptrdiff_t>(g * codes);
    const int8_t zero = g < tile.zeros.size() ? tile.zeros[g] : int8_t{0};
    const bool lost = std::any_of(begin, begin + static_cast<std::ptrdiff_t>(codes),
                                  [&](int8_t code) { return code != zero; });
    if (lost) scan_.lost_codes.Add(at_);
  }
}

TensorScan TensorScanner::Finish() {
  scan_.hash = hash_.Digest();
  if (in_parts_) {
    const Hash128 parts[] = {scan_.hash, code_hash_.Digest(), scale_hash_.Digest(),
                             zero_hash_.Digest()};
    scan_.hash = HashBytes(parts, sizeof(parts));
  }
  if (encoding_.kind != Encoding::Kind::kPlain) {
    scan_.zero = at_ > 0 && !nonzero_;
    return scan_;
  }
  if (fresh_) return scan_;
  const bool floats = special_.least != 0;
  // The least E8M0 is 2^-127, not 0.
  scan_.zero = (floats ? any_ & special_.mask : any_) == 0 && encoding_.dtype != DType::kF8E8M0;
  scan_.constant = differ_ == 0;
  if (encoding_.dtype == DType::kF32) {
    scan_.fits_bf16 = (any_ & 0xFFFF) == 0;
    scan_.fits_f16 = fits_f16_;
  }
  return scan_;
}

}  // namespace pennyweight
