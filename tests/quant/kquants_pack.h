// Packers of the k-quants, the inverse of the decoders in codec_kquants.cc.
#pragma once

#include <cstdint>

#include "lib/encoding.h"

namespace pennyweight {

// One super-block of 256 values. Codes are as the formula of the type has them before any offset
// is taken: Q2_K 0..3, Q3_K -4..3, Q4_K 0..15, Q5_K 0..31, Q6_K -32..31.
struct KBlock {
  float d = 0;          // stored as fp16
  float dmin = 0;       // stored as fp16; Q2_K Q4_K Q5_K
  int scales[16] = {};  // 16 or 8: Q2_K 0..15, Q3_K -32..31, Q4_K Q5_K 0..63, Q6_K -128..127
  int mins[16] = {};    // Q2_K 0..15, Q4_K Q5_K 0..63
  int8_t codes[256] = {};
};

// Writes TraitsOf(type).bytes bytes. Precondition: type is a k-quant, Q2_K to Q6_K.
void PackKBlock(BlockType type, const KBlock& block, uint8_t* out);

}  // namespace pennyweight
