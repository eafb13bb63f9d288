// Super-blocks of 256 values out of codebooks: IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S.
// Eight sub-blocks of 32 values in four groups of eight. Below, ib is the sub-block, l the group.
#include <bit>

#include "quant/codec_blocks.h"
#include "quant/iq_grids.h"

namespace pennyweight {
namespace {

// Eight sign bits out of seven: the number of minus signs is even, so the eighth is their parity.
uint32_t SignsOf7(uint32_t index) {
  return index | (static_cast<uint32_t>(std::popcount(index)) & 1) << 7;
}

float Signed(float value, uint32_t signs, int bit) {
  return value * ((signs >> bit & 1) != 0 ? -1.0f : 1.0f);
}

// Eight values of a IQ2 codebook: scale * value * sign.
void Iq2Group(uint16_t entry, float scale, uint32_t signs, float* out) {
  for (int j = 0; j < 8; ++j) {
    out[j] = Signed(scale * static_cast<float>(kIq2Values[entry >> (2 * j) & 3]), signs, j);
  }
}

float Iq2Scale(float d, uint32_t code) { return d * (0.5f + static_cast<float>(code)) * 0.25f; }

// Eight values of the IQ1 codebook: scale * (value + delta).
void Iq1Group(uint16_t entry, float scale, float delta, float* out) {
  for (int j = 0; j < 8; ++j) {
    const int value = (entry >> (2 * j) & 3) - 1;
    out[j] = scale * (static_cast<float>(value) + delta);
  }
}

constexpr float kIq1Delta = 0.125f;

}  // namespace

// d, then for each sub-block four indexes and a word of 4 x 7 sign bits and a scale.
void DecodeIQ2_XXS(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int ib = 0; ib < 8; ++ib) {
    const uint8_t* indexes = block + 2 + ib * 8;
    const uint32_t word = LoadU32(indexes + 4);
    const float scale = Iq2Scale(d, word >> 28);
    for (int l = 0; l < 4; ++l) {
      const uint32_t signs = SignsOf7(word >> (7 * l) & 127);
      Iq2Group(kIq2XxsGrid[indexes[l]], scale, signs, out + ib * 32 + l * 8);
    }
  }
}

// d, 32 words of a 9-bit index and 7 sign bits, a nibble of scale for 16 values.
void DecodeIQ2_XS(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int group = 0; group < 32; ++group) {
    const uint32_t word = LoadU16(block + 2 + group * 2);
    const uint32_t scales = block[66 + group / 4];
    const float scale = Iq2Scale(d, scales >> (group % 4 / 2 * 4) & 15);
    Iq2Group(kIq2XsGrid[word & 511], scale, SignsOf7(word >> 9), out + group * 8);
  }
}

// d, low[32], signs[32], high[8] (2 bits for a group), a nibble of scale for 16 values.
void DecodeIQ2_S(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int group = 0; group < 32; ++group) {
    const uint32_t high = block[66 + group / 4] >> (group % 4 * 2) & 3;
    const uint32_t scales = block[74 + group / 4];
    const float scale = Iq2Scale(d, scales >> (group % 4 / 2 * 4) & 15);
    const uint32_t index = block[2 + group] | high << 8;
    Iq2Group(kIq2SGrid[index], scale, block[34 + group], out + group * 8);
  }
}

// d, 64 indexes of four values, then for each sub-block 4 x 7 sign bits and a scale.
void DecodeIQ3_XXS(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int ib = 0; ib < 8; ++ib) {
    const uint32_t word = LoadU32(block + 66 + ib * 4);
    const float scale = d * (0.5f + static_cast<float>(word >> 28)) * 0.5f;
    for (int v = 0; v < 32; ++v) {
      const uint16_t entry = kIq3XxsGrid[block[2 + ib * 8 + v / 4]];
      const uint32_t signs = SignsOf7(word >> (7 * (v / 8)) & 127);
      const auto value = static_cast<float>(kIq3XxsValues[entry >> (v % 4 * 4) & 7]);
      out[ib * 32 + v] = Signed(scale * value, signs, v % 8);
    }
  }
}

// d, low[64], high[8] (1 bit for four values), signs[32], a nibble of scale for a sub-block.
void DecodeIQ3_S(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int ib = 0; ib < 8; ++ib) {
    const int code = block[106 + ib / 2] >> (ib % 2 * 4) & 15;
    const float scale = d * static_cast<float>(1 + 2 * code);
    for (int v = 0; v < 32; ++v) {
      const uint32_t high = block[66 + ib] >> (v / 4) & 1;
      const uint16_t entry = kIq3SGrid[block[2 + ib * 8 + v / 4] | high << 8];
      const auto value = static_cast<float>(2 * (entry >> (v % 4 * 4) & 7) + 1);
      out[ib * 32 + v] = Signed(scale * value, block[74 + ib * 4 + v / 8], v % 8);
    }
  }
}

// d, low[32], then for each sub-block 4 x 3 high index bits, a scale and the sign of delta.
void DecodeIQ1_S(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int ib = 0; ib < 8; ++ib) {
    const uint32_t word = LoadU16(block + 34 + ib * 2);
    const float scale = d * static_cast<float>(2 * (word >> 12 & 7) + 1);
    const float delta = (word & 0x8000) != 0 ? -kIq1Delta : kIq1Delta;
    for (int l = 0; l < 4; ++l) {
      const uint32_t index = block[2 + ib * 4 + l] | (word >> (3 * l) & 7) << 8;
      Iq1Group(kIq1SGrid[index], scale, delta, out + ib * 32 + l * 8);
    }
  }
}

// low[32], a nibble for a group (3 high index bits, sign of delta), four words: each 4 x 3 bits of
// scale for 16 values, and in its top nibble a quarter of the fp16 scale.
void DecodeIQ1_M(const uint8_t* block, float* out) {
  uint8_t d_bytes[2] = {};
  uint32_t words[4];
  for (int k = 0; k < 4; ++k) {
    words[k] = LoadU16(block + 48 + k * 2);
    d_bytes[k / 2] |= static_cast<uint8_t>(words[k] >> 12 << (k % 2 * 4));
  }
  const float d = LoadF16(d_bytes);
  for (int group = 0; group < 32; ++group) {
    const uint32_t code = words[group / 8] >> (group % 8 / 2 * 3) & 7;
    const float scale = d * static_cast<float>(2 * code + 1);
    const uint32_t nibble = block[32 + group / 2] >> (group % 2 * 4) & 15;
    const float delta = (nibble & 8) != 0 ? -kIq1Delta : kIq1Delta;
    const uint32_t index = block[group] | (nibble & 7) << 8;
    Iq1Group(kIq1SGrid[index], scale, delta, out + group * 8);
  }
}

}  // namespace pennyweight
