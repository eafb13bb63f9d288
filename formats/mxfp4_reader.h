// Reads OCP microscaling floats of 4 bits: E2M1 values in groups of 32 with a scale of 2^(e - 127).
//   gpt-oss             T_blocks U8 [E, R, G, 16], T_scales U8 [E, R, G]
//   compressed-tensors  P.weight_packed U8 [N, K / 2], P.weight_scale U8 [N, K / 32]
// In both, value 2i of a row is the low half of byte i, 2i + 1 the high one. They become MXFP4
// blocks of GGUF, which hold the same codes and exponents in another order of nibbles.
// Source: transformers/integrations/mxfp4.py (github.com/huggingface/transformers); ggml-quants.c.
#pragma once

#include <string>

#include "formats/packed_tensors.h"
#include "lib/result.h"

namespace pennyweight {

// The experts of gpt-oss: T [E, R, 32 G], marked as transposed: transformers' T is [E, 32 G, R].
// Errors: kTensorMissing, kInvalidTensor.
Status FindGptOss(const PartsIndex& index, Packing* packing);
// True when a T_blocks has its T_scales beside it, both of these forms: for files without a config.
bool LooksLikeGptOss(const PartsIndex& index);

// One linear of compressed-tensors. Errors: kInvalidTensor.
Status AddMxfp4Linear(const PartsIndex& index, const std::string& prefix, int64_t packed,
                      int64_t scale, Packing* packing);

}  // namespace pennyweight
