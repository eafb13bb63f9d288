#include "tests/quant/kquants_pack.h"

#include <algorithm>

#include "quant/codec_blocks.h"

namespace pennyweight {
namespace {

uint8_t Byte(int v) { return static_cast<uint8_t>(v & 0xFF); }

// Two bits of value v of each half of 128 at byte v mod 32, bits 2 (v div 32).
void PackCrumbs(const int8_t* codes, int add, uint8_t* qs) {
  std::fill(qs, qs + 64, uint8_t{0});
  for (int i = 0; i < 256; ++i) {
    uint8_t& byte = qs[i / 128 * 32 + i % 32];
    byte = Byte(byte | ((codes[i] + add) & 3) << (i % 128 / 32 * 2));
  }
}

// Nibbles of 64 values in 32 bytes: values 0..31 low, 32..63 high.
void PackNibblePairs(const int8_t* codes, uint8_t* qs) {
  for (int g = 0; g < 4; ++g) {
    for (int l = 0; l < 32; ++l) {
      qs[g * 32 + l] = Byte((codes[g * 64 + l] & 15) | (codes[g * 64 + 32 + l] & 15) << 4);
    }
  }
}

void PackScaleMins(const KBlock& block, uint8_t* s) {
  for (int j = 0; j < 4; ++j) {
    const int high_scale = block.scales[j + 4];
    const int high_min = block.mins[j + 4];
    s[j] = Byte(block.scales[j] | (high_scale >> 4) << 6);
    s[j + 4] = Byte(block.mins[j] | (high_min >> 4) << 6);
    s[j + 8] = Byte((high_scale & 15) | (high_min & 15) << 4);
  }
}

void PackQ2_K(const KBlock& block, uint8_t* out) {
  for (int j = 0; j < 16; ++j) out[j] = Byte(block.scales[j] | block.mins[j] << 4);
  PackCrumbs(block.codes, 0, out + 16);
  StoreF16(block.d, out + 80);
  StoreF16(block.dmin, out + 82);
}

void PackQ3_K(const KBlock& block, uint8_t* out) {
  uint8_t* hmask = out;
  uint8_t* scales = out + 96;
  std::fill(hmask, hmask + 32, uint8_t{0});
  std::fill(scales, scales + 12, uint8_t{0});
  for (int i = 0; i < 256; ++i) {
    const int high = ((block.codes[i] + 4) >> 2) & 1;
    hmask[i % 32] = Byte(hmask[i % 32] | high << (i / 32));
  }
  PackCrumbs(block.codes, 4, out + 32);
  for (int j = 0; j < 16; ++j) {
    const int v = block.scales[j] + 32;
    scales[j % 8] = Byte(scales[j % 8] | (v & 15) << (j / 8 * 4));
    scales[8 + j % 4] = Byte(scales[8 + j % 4] | (v >> 4) << (2 * (j / 4)));
  }
  StoreF16(block.d, out + 108);
}

void PackQ4_K(const KBlock& block, uint8_t* out) {
  StoreF16(block.d, out);
  StoreF16(block.dmin, out + 2);
  PackScaleMins(block, out + 4);
  PackNibblePairs(block.codes, out + 16);
}

void PackQ5_K(const KBlock& block, uint8_t* out) {
  StoreF16(block.d, out);
  StoreF16(block.dmin, out + 2);
  PackScaleMins(block, out + 4);
  uint8_t* qh = out + 16;
  std::fill(qh, qh + 32, uint8_t{0});
  for (int i = 0; i < 256; ++i) {
    qh[i % 32] = Byte(qh[i % 32] | ((block.codes[i] >> 4) & 1) << (i / 32));
  }
  PackNibblePairs(block.codes, out + 48);
}

void PackQ6_K(const KBlock& block, uint8_t* out) {
  std::fill(out, out + 192, uint8_t{0});
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128;
    const int v = i % 128;
    const int q = block.codes[i] + 32;
    uint8_t& low = out[half * 64 + v % 64];
    uint8_t& high = out[128 + half * 32 + v % 32];
    low = Byte(low | (q & 15) << (v / 64 * 4));
    high = Byte(high | (q >> 4) << (v / 32 * 2));
  }
  for (int j = 0; j < 16; ++j) out[192 + j] = Byte(block.scales[j]);
  StoreF16(block.d, out + 208);
}

}  // namespace

void PackKBlock(BlockType type, const KBlock& block, uint8_t* out) {
  switch (type) {
    case BlockType::kQ2_K:
      return PackQ2_K(block, out);
    case BlockType::kQ3_K:
      return PackQ3_K(block, out);
    case BlockType::kQ4_K:
      return PackQ4_K(block, out);
    case BlockType::kQ5_K:
      return PackQ5_K(block, out);
    case BlockType::kQ6_K:
      return PackQ6_K(block, out);
    default:
      return;
  }
}

}  // namespace pennyweight
