#include "quant/iq_pack.h"

#include <algorithm>

#include "quant/codec_blocks.h"

namespace pennyweight {
namespace {

uint8_t Byte(uint32_t v) { return static_cast<uint8_t>(v); }

void OrByte(uint8_t* at, uint32_t v) { *at = Byte(*at | v); }

void OrU32(uint8_t* at, uint32_t v) {
  for (int k = 0; k < 4; ++k) OrByte(at + k, v >> (8 * k) & 255);
}

// A nibble of scale for each sub-block.
void PackNibbles(const uint8_t* levels, int64_t count, uint8_t* out) {
  for (int64_t s = 0; s < count; ++s)
    OrByte(out + s / 2, static_cast<uint32_t>(levels[s]) << s % 2 * 4);
}

// A word of 4 x 7 sign bits and a scale, of sub-block ib.
void PackSignsAndScale(const IqCodes& codes, int64_t ib, uint8_t* out) {
  for (int64_t l = 0; l < 4; ++l) {
    OrU32(out, static_cast<uint32_t>(codes.signs[ib * 4 + l] & 127) << (7 * l));
  }
  OrU32(out, static_cast<uint32_t>(codes.levels[ib]) << 28);
}

}  // namespace

void PackIq23(BlockType type, const IqCodes& codes, uint8_t* out) {
  std::fill_n(out, TraitsOf(type).bytes, uint8_t{0});
  StoreF16(codes.d, out);
  switch (type) {
    case BlockType::kIQ2_XXS:
      for (int64_t ib = 0; ib < 8; ++ib) {
        uint8_t* at = out + 2 + ib * 8;
        for (int64_t l = 0; l < 4; ++l) at[l] = Byte(codes.entries[ib * 4 + l]);
        PackSignsAndScale(codes, ib, at + 4);
      }
      return;
    case BlockType::kIQ2_XS:
      for (int64_t k = 0; k < 32; ++k) {
        const uint32_t word = codes.entries[k] | static_cast<uint32_t>(codes.signs[k] & 127) << 9;
        out[2 + k * 2] = Byte(word);
        out[3 + k * 2] = Byte(word >> 8);
      }
      PackNibbles(codes.levels, 16, out + 66);
      return;
    case BlockType::kIQ2_S:
      for (int64_t k = 0; k < 32; ++k) {
        out[2 + k] = Byte(codes.entries[k]);
        out[34 + k] = codes.signs[k];
        OrByte(out + 66 + k / 4, static_cast<uint32_t>(codes.entries[k] >> 8) << k % 4 * 2);
      }
      PackNibbles(codes.levels, 16, out + 74);
      return;
    case BlockType::kIQ3_XXS:
      for (int64_t k = 0; k < 64; ++k) out[2 + k] = Byte(codes.entries[k]);
      for (int64_t ib = 0; ib < 8; ++ib) PackSignsAndScale(codes, ib, out + 66 + ib * 4);
      return;
    default:  // IQ3_S
      for (int64_t k = 0; k < 64; ++k) {
        out[2 + k] = Byte(codes.entries[k]);
        OrByte(out + 66 + k / 8, static_cast<uint32_t>(codes.entries[k] >> 8) << k % 8);
      }
      std::copy_n(codes.signs, 32, out + 74);
      PackNibbles(codes.levels, 8, out + 106);
      return;
  }
}

}  // namespace pennyweight
