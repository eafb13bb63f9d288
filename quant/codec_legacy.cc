// Blocks of 32 with one scale (and minimum): Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q8_1 IQ4_NL MXFP4.
#include <bit>

#include "lib/dtype.h"
#include "quant/codec_blocks.h"

namespace pennyweight {

float LoadF16(const uint8_t* bytes) {
  return F16ToF32(static_cast<uint16_t>(bytes[0] | bytes[1] << 8));
}

void StoreF16(float value, uint8_t* bytes) {
  const uint16_t bits = F32ToF16(value);
  bytes[0] = static_cast<uint8_t>(bits & 0xFF);
  bytes[1] = static_cast<uint8_t>(bits >> 8);
}

void DecodeQ4_0(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>((block[2 + j] & 15) - 8);
    out[j + 16] = d * static_cast<float>((block[2 + j] >> 4) - 8);
  }
}

void DecodeQ4_1(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  const float m = LoadF16(block + 2);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(block[4 + j] & 15) + m;
    out[j + 16] = d * static_cast<float>(block[4 + j] >> 4) + m;
  }
}

void DecodeQ5_0(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  const uint32_t high = LoadU32(block + 2);
  for (int j = 0; j < 16; ++j) {
    const int lo = (block[6 + j] & 15) | static_cast<int>((high >> j) & 1) << 4;
    const int hi = (block[6 + j] >> 4) | static_cast<int>((high >> (j + 16)) & 1) << 4;
    out[j] = d * static_cast<float>(lo - 16);
    out[j + 16] = d * static_cast<float>(hi - 16);
  }
}

void DecodeQ5_1(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  const float m = LoadF16(block + 2);
  const uint32_t high = LoadU32(block + 4);
  for (int j = 0; j < 16; ++j) {
    const int lo = (block[8 + j] & 15) | static_cast<int>((high >> j) & 1) << 4;
    const int hi = (block[8 + j] >> 4) | static_cast<int>((high >> (j + 16)) & 1) << 4;
    out[j] = d * static_cast<float>(lo) + m;
    out[j + 16] = d * static_cast<float>(hi) + m;
  }
}

void DecodeQ8_0(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int j = 0; j < 32; ++j) {
    out[j] = d * static_cast<float>(static_cast<int8_t>(block[2 + j]));
  }
}

// The fp16 behind the scale is the sum of the values, which saves dot products time.
void DecodeQ8_1(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int j = 0; j < 32; ++j) {
    out[j] = d * static_cast<float>(static_cast<int8_t>(block[4 + j]));
  }
}

void DecodeIQ4_NL(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(kIq4Values[block[2 + j] & 15]);
    out[j + 16] = d * static_cast<float>(kIq4Values[block[2 + j] >> 4]);
  }
}

// kFp4Doubled holds doubled values, so the scale is half of 2^(e-127). For e < 2 that half is a
// denormal, which must not be flushed.
void DecodeMXFP4(const uint8_t* block, float* out) {
  const uint32_t e = block[0];
  const uint32_t bits = e < 2 ? 0x00200000u << e : (e - 1) << 23;
  const float d = std::bit_cast<float>(bits);
  for (int j = 0; j < 16; ++j) {
    out[j] = d * static_cast<float>(kFp4Doubled[block[1 + j] & 15]);
    out[j + 16] = d * static_cast<float>(kFp4Doubled[block[1 + j] >> 4]);
  }
}

}  // namespace pennyweight
