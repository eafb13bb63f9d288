// Decoders of small floats with scales and of codebooks: see ScaledSpec and CodebookSpec.
#pragma once

#include <cstdint>

#include "lib/encoding.h"
#include "lib/tensor.h"

namespace pennyweight {

// The value of one byte of F8_E4M3, F8_E5M2 or F8_E8M0 (OCP 8-bit floats: E4M3 has no infinities,
// E8M0 is 2^(e-127) and NaN for 255), or of the low half of a byte of F4 (E2M1).
float SmallFloatValue(DType dtype, uint8_t bits);

bool CanDecodeScaled(const ScaledSpec& spec);
bool CanDecodeCodebook(const CodebookSpec& spec);

// Rows [row, row + count) of a tile to out[count, cols]. value = element * scale in fp32, where
// the spec says so with scale / divisor (compressed-tensors' order), or times 1/127
// (bitsandbytes').
void DecodeScaledRows(const EncodedTensor& tile, int64_t row, int64_t count, float* out);
// value = level * absmax in fp32; a nested absmax is level * absmax + offset, in that order.
// Source: bitsandbytes' dequantize_4bit and dequantize_blockwise.
void DecodeCodebookRows(const EncodedTensor& tile, int64_t row, int64_t count, float* out);

}  // namespace pennyweight
