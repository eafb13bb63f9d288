// Bytes of the IQ2 and IQ3 super-blocks out of their codes: the inverse of quant/codec_iq.cc.
#pragma once

#include <cstdint>

#include "lib/encoding.h"

namespace pennyweight {

// The codes of one super-block. A type uses as many of each as it has.
struct IqCodes {
  float d = 0;                // stored as fp16
  uint16_t entries[64] = {};  // numbers of words in the codebook
  uint8_t signs[32] = {};     // of eight values each; of an even number where seven are stored
  uint8_t levels[16] = {};    // 4-bit scales of the sub-blocks
};

// Writes TraitsOf(type).bytes at out. IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S.
void PackIq23(BlockType type, const IqCodes& codes, uint8_t* out);

}  // namespace pennyweight
