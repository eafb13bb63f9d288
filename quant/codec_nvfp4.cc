// NVFP4: four sub-blocks of 16 E2M1 values, each with an unsigned E4M3 scale. The scale of the
// whole tensor is a tensor of its own and no business of the block.
#include <bit>

#include "quant/codec_blocks.h"

namespace pennyweight {
namespace {

// Half the value of an E4M3 byte (bias 7), since kFp4Doubled holds doubled values. The sign bit is
// not looked at, and 0x7F, the NaN of the format, is 0: both as in ggml.
float HalfE4M3(uint8_t byte) {
  if (byte == 0x7F) return 0;
  const uint32_t exponent = byte >> 3 & 15;
  const uint32_t mantissa = byte & 7;
  if (exponent == 0) return static_cast<float>(mantissa) * 0x1p-10f;
  return std::bit_cast<float>((exponent - 8 + 127) << 23 | mantissa << 20);
}

}  // namespace

void DecodeNVFP4(const uint8_t* block, float* out) {
  for (int s = 0; s < 4; ++s) {
    const float d = HalfE4M3(block[s]);
    const uint8_t* qs = block + 4 + s * 8;
    for (int j = 0; j < 8; ++j) {
      out[s * 16 + j] = d * static_cast<float>(kFp4Doubled[qs[j] & 15]);
      out[s * 16 + j + 8] = d * static_cast<float>(kFp4Doubled[qs[j] >> 4]);
    }
  }
}

}  // namespace pennyweight
