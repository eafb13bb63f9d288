// Reads checkpoints of compressed-tensors in its pack-quantized layout: the parts of a linear
//   P.weight_packed      I32 [N, ceil(K b / 32)]  row n: b-bit values code + 2^(b-1), low bits
//   first P.weight_scale       F16, BF16 or F32 [N, G] P.weight_zero_point  I32 [ceil(N b / 32), G]
//   column g: zero + 2^(b-1), packed down the rows P.weight_shape       I64 [2] = {N, K}
// become one tensor P.weight [N, K] with an integer encoding; value = (code - zero) * scale.
// Source: compressed_tensors/compressors/pack_quantized
// (github.com/vllm-project/compressed-tensors).
#pragma once

#include <memory>
#include <string>

#include "lib/json.h"
#include "lib/result.h"
#include "lib/tensor_source.h"

namespace pennyweight {

// True when a config.json (`json`) says that its checkpoint is written by compressed-tensors.
bool IsCompressedTensors(const Json& json);
// The quantization_config object of a config.json; nullptr when there is none.
const Json* QuantizationConfig(const Json& json);

// Takes over `*parts` and lists its groups of parts as single tensors; everything else stays as it
// is. `json` is the config.json (at `config_file`). Encodings come from the tensors' shapes; one of
// the config's groups has to agree. On an error `*parts` is left untouched. Errors: kUnsupported (a
// format, bit width or activation order that is not read here), kConfigMissing and kConfigInvalid
// (quantization_config), kTensorMissing (a part), kInvalidTensor (parts contradict each other or
// every group), kDuplicateKey (P.weight and its parts both exist), those of reading weight_shape.
Result<std::unique_ptr<TensorSource>> WrapCompressedTensors(const Json& json,
                                                            const std::string& config_file,
                                                            std::unique_ptr<TensorSource>* parts);

}  // namespace pennyweight
