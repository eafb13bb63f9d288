// Blocks of 32 with one fp16 scale (Q4_0 Q5_0 Q8_0), or scale and offset (Q4_1 Q5_1).
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "lib/dtype.h"
#include "quant/codec_blocks.h"
#include "quant/row_grids.h"
#include "quant/scale_search.h"

namespace pennyweight {
namespace {

constexpr int64_t kWidth = 32;

uint8_t* BlockBytes(EncodedTensor* out, BlockType type, int64_t row, int64_t b) {
  const BlockTraits& traits = TraitsOf(type);
  return out->data.data() + (row * (out->cols / traits.elements) + b) * traits.bytes;
}

// Low nibbles of codes j and j + 16 share byte j; fifth bits go to a little-endian word.
void PackNibbles(const std::array<int, kWidth>& codes, uint8_t* qs) {
  for (size_t j = 0; j < 16; ++j) {
    qs[j] = static_cast<uint8_t>((codes[j] & 15) | (codes[j + 16] & 15) << 4);
  }
}
void PackFifthBits(const std::array<int, kWidth>& codes, uint8_t* qh) {
  for (size_t k = 0; k < 4; ++k) {
    int byte = 0;
    for (size_t j = 0; j < 8; ++j) byte |= ((codes[k * 8 + j] >> 4) & 1) << j;
    qh[k] = static_cast<uint8_t>(byte);
  }
}

class LegacySymmetricGrid final : public RowGrid {
 public:
  LegacySymmetricGrid(BlockType type, int lo, int hi)
      : RowGrid(kWidth, kWidth), type_(type), lo_(lo), hi_(hi), fit_(kWidth) {}

  void BeginBlock(std::span<const float> w, std::span<const float> importance,
                  ScaleSearch search) override {
    fit_.Load(w, importance);
    // The reference's choice: Q4_0 and Q5_0 map the weight of largest magnitude, with its sign, to
    // the lowest code; Q8_0 maps the largest magnitude to 127.
    float scale = std::max(-fit_.min(), fit_.max()) / 127;
    if (type_ != BlockType::kQ8_0) {
      scale = (-fit_.min() > fit_.max() ? fit_.min() : fit_.max()) / static_cast<float>(lo_);
    }
    scale = RoundStored(DType::kF16, fit_.unit(), scale);
    if (search == ScaleSearch::kSearch) {
      scale = SearchSymmetricStored(fit_, static_cast<float>(lo_), static_cast<float>(hi_),
                                    DType::kF16, scale)
                  .scale;
    }
    scale_ = scale * fit_.unit();
  }

  void BeginSubBlock(int64_t, std::span<const float>, std::span<const float>) override {}

  float Round(int64_t i, float w) override {
    float q = 0;
    if (scale_ != 0) {
      q = NearestInteger(ClampTo(w / scale_, static_cast<float>(lo_), static_cast<float>(hi_)));
    }
    codes_[static_cast<size_t>(i)] = static_cast<int>(q);
    return scale_ * q;
  }

  void Pack(EncodedTensor* out, int64_t row, int64_t b) const override {
    uint8_t* bytes = BlockBytes(out, type_, row, b);
    StoreF16(scale_, bytes);
    if (type_ == BlockType::kQ8_0) {
      for (size_t j = 0; j < kWidth; ++j) bytes[2 + j] = static_cast<uint8_t>(codes_[j]);
      return;
    }
    std::array<int, kWidth> shifted = codes_;
    for (int& q : shifted) q -= lo_;
    if (type_ == BlockType::kQ5_0) PackFifthBits(shifted, bytes + 2);
    PackNibbles(shifted, bytes + (type_ == BlockType::kQ5_0 ? 6 : 2));
  }

 private:
  BlockType type_;
  int lo_, hi_;
  FitBlock fit_;
  std::array<int, kWidth> codes_{};
  float scale_ = 0;
};

class LegacyAffineGrid final : public RowGrid {
 public:
  LegacyAffineGrid(BlockType type, int levels)
      : RowGrid(kWidth, kWidth), type_(type), levels_(levels), fit_(kWidth) {}

  void BeginBlock(std::span<const float> w, std::span<const float> importance,
                  ScaleSearch search) override {
    fit_.Load(w, importance);
    AffineFit best;
    best.scale = RoundStored(DType::kF16, fit_.unit(),
                             (fit_.max() - fit_.min()) / static_cast<float>(levels_));
    best.offset = RoundStored(DType::kF16, fit_.unit(), fit_.min());
    if (search == ScaleSearch::kSearch) {
      best = SearchAffineStored(fit_, static_cast<float>(levels_), DType::kF16, best);
    }
    scale_ = best.scale * fit_.unit();
    offset_ = best.offset * fit_.unit();
  }

  void BeginSubBlock(int64_t, std::span<const float>, std::span<const float>) override {}

  float Round(int64_t i, float w) override {
    float q = 0;
    if (scale_ != 0) {
      q = NearestInteger(ClampTo((w - offset_) / scale_, 0.0f, static_cast<float>(levels_)));
    }
    codes_[static_cast<size_t>(i)] = static_cast<int>(q);
    return scale_ * q + offset_;
  }

  void Pack(EncodedTensor* out, int64_t row, int64_t b) const override {
    uint8_t* bytes = BlockBytes(out, type_, row, b);
    StoreF16(scale_, bytes);
    StoreF16(offset_, bytes + 2);
    if (type_ == BlockType::kQ5_1) PackFifthBits(codes_, bytes + 4);
    PackNibbles(codes_, bytes + (type_ == BlockType::kQ5_1 ? 8 : 4));
  }

 private:
  BlockType type_;
  int levels_;
  FitBlock fit_;
  std::array<int, kWidth> codes_{};
  float scale_ = 0, offset_ = 0;
};

}  // namespace

std::unique_ptr<RowGrid> MakeLegacyRowGrid(BlockType type) {
  switch (type) {
    case BlockType::kQ4_0:
      return std::make_unique<LegacySymmetricGrid>(type, -8, 7);
    case BlockType::kQ5_0:
      return std::make_unique<LegacySymmetricGrid>(type, -16, 15);
    case BlockType::kQ8_0:  // -128 is left out: some int8 kernels negate codes
      return std::make_unique<LegacySymmetricGrid>(type, -127, 127);
    case BlockType::kQ4_1:
      return std::make_unique<LegacyAffineGrid>(type, 15);
    case BlockType::kQ5_1:
      return std::make_unique<LegacyAffineGrid>(type, 31);
    default:
      return nullptr;
  }
}

}  // namespace pennyweight
