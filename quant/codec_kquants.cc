// Super-blocks of 256: Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_XS with two levels of scales, Q8_K with one.
#include <bit>

#include "quant/codec_blocks.h"

namespace pennyweight {

void DecodeQ2_K(const uint8_t* block, float* out) {
  const uint8_t* scales = block;
  const uint8_t* qs = block + 16;
  const float d = LoadF16(block + 80);
  const float dmin = LoadF16(block + 82);
  for (int i = 0; i < 256; ++i) {
    const int s = scales[i / 16];
    const int q = (qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3;
    const float scale = d * static_cast<float>(s & 15);
    const float min = dmin * static_cast<float>(s >> 4);
    out[i] = scale * static_cast<float>(q) - min;
  }
}

void DecodeQ3_K(const uint8_t* block, float* out) {
  const uint8_t* hmask = block;
  const uint8_t* qs = block + 32;
  const uint8_t* scales = block + 96;
  const float d = LoadF16(block + 108);
  for (int s = 0; s < 16; ++s) {
    const float scale = d * static_cast<float>(LoadQ3Scale(scales, s));
    for (int i = s * 16; i < s * 16 + 16; ++i) {
      const int low = (qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3;
      const int high = (hmask[i % 32] >> (i / 32)) & 1;
      out[i] = scale * static_cast<float>(low + 4 * high - 4);
    }
  }
}

void DecodeQ4_K(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  const float dmin = LoadF16(block + 2);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin sm = LoadScaleMin(block + 4, j);
    const float scale = d * static_cast<float>(sm.scale);
    const float min = dmin * static_cast<float>(sm.min);
    const uint8_t* qs = block + 16 + j / 2 * 32;
    const int shift = j % 2 * 4;
    for (int l = 0; l < 32; ++l) {
      out[j * 32 + l] = scale * static_cast<float>((qs[l] >> shift) & 15) - min;
    }
  }
}

void DecodeQ5_K(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  const float dmin = LoadF16(block + 2);
  const uint8_t* qh = block + 16;
  for (int j = 0; j < 8; ++j) {
    const ScaleMin sm = LoadScaleMin(block + 4, j);
    const float scale = d * static_cast<float>(sm.scale);
    const float min = dmin * static_cast<float>(sm.min);
    const uint8_t* qs = block + 48 + j / 2 * 32;
    const int shift = j % 2 * 4;
    for (int l = 0; l < 32; ++l) {
      const int q = ((qs[l] >> shift) & 15) | ((qh[l] >> j) & 1) << 4;
      out[j * 32 + l] = scale * static_cast<float>(q) - min;
    }
  }
}

void DecodeQ6_K(const uint8_t* block, float* out) {
  const float d = LoadF16(block + 208);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* ql = block + half * 64;
    const uint8_t* qh = block + 128 + half * 32;
    const uint8_t* scales = block + 192 + half * 8;
    float* y = out + half * 128;
    for (int v = 0; v < 128; ++v) {
      const int low = (ql[v % 64] >> (v / 64 * 4)) & 15;
      const int high = (qh[v % 32] >> (v / 32 * 2)) & 3;
      const float scale = d * static_cast<float>(static_cast<int8_t>(scales[v / 16]));
      y[v] = scale * static_cast<float>((low | high << 4) - 32);
    }
  }
}

// An fp32 scale; the sums of 16 values behind the codes save dot products time.
void DecodeQ8_K(const uint8_t* block, float* out) {
  const auto d = std::bit_cast<float>(LoadU32(block));
  for (int i = 0; i < 256; ++i) {
    out[i] = d * static_cast<float>(static_cast<int8_t>(block[4 + i]));
  }
}

void DecodeIQ4_XS(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  const int scales_h = block[2] | block[3] << 8;
  for (int j = 0; j < 8; ++j) {
    const int low = (block[4 + j / 2] >> (j % 2 * 4)) & 15;
    const int high = (scales_h >> (2 * j)) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    const uint8_t* qs = block + 8 + j * 16;
    for (int l = 0; l < 16; ++l) {
      out[j * 32 + l] = scale * static_cast<float>(kIq4Values[qs[l] & 15]);
      out[j * 32 + l + 16] = scale * static_cast<float>(kIq4Values[qs[l] >> 4]);
    }
  }
}

}  // namespace pennyweight
