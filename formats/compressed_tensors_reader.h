// Reads checkpoints of compressed-tensors. A linear P is stored as
//   pack-quantized        P.weight_packed I32 [N, W]: row n holds b-bit values code + 2^(b-1), low
//                         bits first. W = ceil(K b / 32), or up to version 0.16 ceil(K / (32 / b)):
//                         no value crosses words. P.weight_scale F16, BF16 or F32 [N, G],
//                         P.weight_zero_point I32 [W of N, G]: column g packed down the rows
//                         likewise (older: I8 [N, G]), P.weight_shape I64 [2] = {N, K},
//                         P.weight_g_idx I32 [K]: group of each column; optional
//   int-quantized         P.weight I8 [N, K], P.weight_scale [N, G] or one number,
//                         P.weight_zero_point I8 likewise
//   float-quantized       as fp8_reader.h; mxfp8-quantized the same, with exponents as scales
//   nvfp4-pack-quantized  P.weight_packed U8 [N, K / 2], P.weight_scale F8_E4M3 [N, K / 16],
//                         P.weight_global_scale F32 [1]: value = code * scale / global
//   mxfp4-pack-quantized  as mxfp4_reader.h
// and becomes P.weight [N, K]; integers are (code - zero) * scale.
// Source: compressed_tensors/compressors (github.com/vllm-project/compressed-tensors).
#pragma once

#include "formats/json_fields.h"
#include "formats/packed_tensors.h"
#include "lib/result.h"

namespace pennyweight {

// `fields` is the quantization_config. Encodings come from the tensors' shapes; for integers one of
// the config's groups has to agree. Errors: kUnsupported (a format, bit width or strategy that is
// not read here), kConfigMissing and kConfigInvalid, kTensorMissing (a part), kInvalidTensor (parts
// contradict each other or every group), kDuplicateKey (P.weight and its parts both exist), those
// of reading weight_shape and weight_g_idx.
Status FindCompressedTensors(const PartsIndex& index, const JsonFields& fields, Packing* packing);

}  // namespace pennyweight
