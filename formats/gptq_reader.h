// Reads the GPTQ and AWQ layouts. A linear P of K inputs and N outputs is stored as
//   GPTQ  P.qweight I32 [K b / 32, N]  column n: stream of b-bit codes down the rows
//         P.qzeros  I32 [G, N b / 32]  row g: stream of b-bit zero points; v1 stores zero - 1
//         P.scales  F16, BF16 or F32 [G, N]
//         P.g_idx   I32 [K]            group of each input; optional
//   AWQ   P.qweight I32 [K, N / 8]     nibble i of word c: code of output 8c + {0 2 4 6 1 3 5 7}[i]
//         P.qzeros  I32 [G, N / 8]     in the same order; as they are
//         P.scales  as GPTQ
// and becomes P.weight [N, K] with an integer encoding: w = (code - zero) * scale, codes and zeros
// made signed by taking 2^(b-1) from both.
// Sources: AutoGPTQ and GPTQModel (github.com/ModelCloud/GPTQModel, qlinear), AutoAWQ
// (github.com/casper-hansen/AutoAWQ, awq/modules/linear/gemm.py).
#pragma once

#include <optional>

#include "formats/json_fields.h"
#include "formats/packed_tensors.h"
#include "lib/result.h"

namespace pennyweight {

// What a quantization_config says; what it does not say, the tensors' shapes do.
struct GptqConfig {
  std::optional<int64_t> bits;
  std::optional<int64_t> group_size;  // 0: whole rows
  bool v2 = false;                    // zero points are stored as they are
  bool mixed = false;                 // modules may have bits and groups of their own
  bool stated = false;                // there is a checkpoint_format
};

// Errors: kUnsupported (a checkpoint_format or version that is not read here), kConfigInvalid.
Result<GptqConfig> ParseGptqConfig(const JsonFields& fields);
Result<GptqConfig> ParseAwqConfig(const JsonFields& fields);

// Finds every linear of the layout. Zero points that are all 2^(b-1) are recognised by their words,
// whatever the config says, and the weight is listed as symmetric; for others the config decides
// between v1 and v2, and a note says so.
// Errors: kTensorMissing, kInvalidTensor (parts contradict each other or the config, a group out of
// range), kUnsupported (rows that do not divide into groups), those of reading zeros and g_idx.
Status FindGptq(const PartsIndex& index, const GptqConfig& config, Packing* packing);
Status FindAwq(const PartsIndex& index, const GptqConfig& config, Packing* packing);

// True when the parts of some linear have the shapes of the layout: for files without a config.
bool LooksLikeGptq(const PartsIndex& index);
bool LooksLikeAwq(const PartsIndex& index);

}  // namespace pennyweight
