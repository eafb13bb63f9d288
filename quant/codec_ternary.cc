// Types of three values or fewer, and of four: TQ1_0 TQ2_0 Q1_0 Q2_0.
#include "quant/codec_blocks.h"

namespace pennyweight {

// Five trits to a byte, four in the last four bytes; the first trit is the most significant. The
// byte is the fraction trits / 3^5 in 1/256, rounded up, so that 3^n times it, modulo 1, has trit n
// in front.
void DecodeTQ1_0(const uint8_t* block, float* out) {
  constexpr uint8_t kPow3[5] = {1, 3, 9, 27, 81};
  struct Part {
    int first, bytes, trits;
  };
  constexpr Part kParts[] = {{0, 32, 5}, {32, 16, 5}, {48, 4, 4}};
  const float d = LoadF16(block + 52);
  for (const Part& part : kParts) {
    for (int n = 0; n < part.trits; ++n) {
      for (int m = 0; m < part.bytes; ++m) {
        const auto fraction = static_cast<uint8_t>(block[part.first + m] * kPow3[n]);
        *out++ = d * static_cast<float>((fraction * 3 >> 8) - 1);
      }
    }
  }
}

void DecodeTQ2_0(const uint8_t* block, float* out) {
  const float d = LoadF16(block + 64);
  for (int i = 0; i < 256; ++i) {
    const int q = block[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
    out[i] = d * static_cast<float>(q - 1);
  }
}

void DecodeQ1_0(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int i = 0; i < 128; ++i) out[i] = (block[2 + i / 8] >> (i % 8) & 1) != 0 ? d : -d;
}

void DecodeQ2_0(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int i = 0; i < 64; ++i) {
    out[i] = d * static_cast<float>((block[2 + i / 4] >> (i % 4 * 2) & 3) - 1);
  }
}

}  // namespace pennyweight
