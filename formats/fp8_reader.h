// Reads weights of 8-bit floats with scales: a tensor T of F8_E4M3 or F8_E5M2 [.., N, K] and
//   T_scale_inv or T_scale   one number, or [.., N, 1] (also [N]), or [.., ceil(N/bn), ceil(K/bk)]
// become one tensor T; value = element * scale, in spite of the name "inv". The last blocks of rows
// and columns may be partial. Used by DeepSeek-V3, transformers' fp8 and fbgemm_fp8, and
// compressed-tensors' float-quantized.
// Source: transformers/integrations/finegrained_fp8.py (github.com/huggingface/transformers).
#pragma once

#include <optional>

#include "formats/json_fields.h"
#include "formats/packed_tensors.h"
#include "lib/result.h"

namespace pennyweight {

struct Fp8Config {
  int64_t block_rows = 128;
  int64_t block_cols = 128;
  bool required = false;  // every matrix of 8-bit floats has to have scales
};

// The weight_block_size of a quantization_config. Errors: kConfigInvalid, kUnsupported.
Result<Fp8Config> ParseFp8Config(const JsonFields& fields);

// Errors: kTensorMissing (only when required), kInvalidTensor, kDuplicateKey (both scales are
// there).
Status FindFp8(const PartsIndex& index, const Fp8Config& config, Packing* packing);

// Scales of activations (P.input_scale and the like) say nothing of the weights: no longer listed
// beside a weight that has been found, and noted.
void DropActivationScales(const PartsIndex& index, Packing* packing);

}  // namespace pennyweight
