// Decoders of the GGUF block types, one block at a time. Layouts: specs of GGUF; arithmetic in fp32
// in the order of the reference decoders, so that results are equal bit for bit.
#pragma once

#include <cstdint>

#include "lib/encoding.h"

namespace pennyweight {

// Decodes one block (TraitsOf(type).bytes at `block`) to TraitsOf(type).elements floats.
using BlockDecoder = void (*)(const uint8_t* block, float* out);

// nullptr for a type without a decoder.
BlockDecoder FindBlockDecoder(BlockType type);

void DecodeQ4_0(const uint8_t* block, float* out);
void DecodeQ4_1(const uint8_t* block, float* out);
void DecodeQ5_0(const uint8_t* block, float* out);
void DecodeQ5_1(const uint8_t* block, float* out);
void DecodeQ8_0(const uint8_t* block, float* out);
void DecodeQ8_1(const uint8_t* block, float* out);
void DecodeIQ4_NL(const uint8_t* block, float* out);
void DecodeMXFP4(const uint8_t* block, float* out);

void DecodeQ2_K(const uint8_t* block, float* out);
void DecodeQ3_K(const uint8_t* block, float* out);
void DecodeQ4_K(const uint8_t* block, float* out);
void DecodeQ5_K(const uint8_t* block, float* out);
void DecodeQ6_K(const uint8_t* block, float* out);
void DecodeQ8_K(const uint8_t* block, float* out);
void DecodeIQ4_XS(const uint8_t* block, float* out);

void DecodeIQ1_S(const uint8_t* block, float* out);
void DecodeIQ1_M(const uint8_t* block, float* out);
void DecodeIQ2_XXS(const uint8_t* block, float* out);
void DecodeIQ2_XS(const uint8_t* block, float* out);
void DecodeIQ2_S(const uint8_t* block, float* out);
void DecodeIQ3_XXS(const uint8_t* block, float* out);
void DecodeIQ3_S(const uint8_t* block, float* out);

void DecodeTQ1_0(const uint8_t* block, float* out);
void DecodeTQ2_0(const uint8_t* block, float* out);
void DecodeQ1_0(const uint8_t* block, float* out);
void DecodeQ2_0(const uint8_t* block, float* out);
void DecodeNVFP4(const uint8_t* block, float* out);

// The 16 values of IQ4_NL and IQ4_XS codes.
inline constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};

// The E2M1 values of MXFP4 and NVFP4 codes, doubled so that they are integers.
inline constexpr int8_t kFp4Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

inline uint32_t LoadU16(const uint8_t* p) {
  return static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8;
}
inline uint32_t LoadU32(const uint8_t* p) { return LoadU16(p) | LoadU16(p + 2) << 16; }

// The little-endian fp16 at `bytes` as a float, and back (round to nearest even).
float LoadF16(const uint8_t* bytes);
void StoreF16(float value, uint8_t* bytes);

// Six-bit scale and minimum of sub-block j (0..7) in the 12 bytes that Q4_K and Q5_K share.
struct ScaleMin {
  int scale;
  int min;
};
inline ScaleMin LoadScaleMin(const uint8_t* s, int j) {
  if (j < 4) return {s[j] & 63, s[j + 4] & 63};
  return {(s[j + 4] & 15) | ((s[j - 4] >> 6) << 4), (s[j + 4] >> 4) | ((s[j] >> 6) << 4)};
}
// Six-bit signed scale of sub-block j (0..15) in the 12 bytes of Q3_K.
inline int LoadQ3Scale(const uint8_t* s, int j) {
  const int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4;
  const int high = (s[8 + j % 4] >> (2 * (j / 4))) & 3;
  return (low | (high << 4)) - 32;
}

}  // namespace pennyweight
