// Reads the layouts of bitsandbytes.
//   4 bits  T               U8 [ceil(N K / 2), 1], or the same bytes as another dtype: value 2i of
//                           the row-major tensor in the high half of byte i, 2i + 1 in the low
//           T.absmax        F32 [blocks], or U8 when nested
//           T.quant_map     F32 [16]
//           T.nested_absmax, T.nested_quant_map  F32 [blocks / 256], F32 [256]
//           T.quant_state.bitsandbytes__nf4 (__fp4)  U8: JSON with blocksize, shape, nested_*
//   8 bits  P.weight I8 [N, K], P.SCB F32 [N]: value = code * SCB / 127; P.weight_format U8, 0
// Source: bitsandbytes/functional.py, QuantState (github.com/bitsandbytes-foundation/bitsandbytes).
#pragma once

#include "formats/packed_tensors.h"
#include "lib/result.h"

namespace pennyweight {

// Errors: kTensorMissing, kInvalidTensor (a state that is no JSON, contradicts the parts, or is of
// another type), kUnsupported (an 8-bit weight in another order than rows).
Status FindBitsandbytes(const PartsIndex& index, Packing* packing);

}  // namespace pennyweight
