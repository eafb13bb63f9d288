// The inner loops of types whose values are elements of a small set times a scale: 8-bit and 4-bit
// floats, bitsandbytes' codebooks. Compiled for each instruction set and chosen at run time; codes
// are the same on all of them, and so are the bits of sums, which are kept in eight interleaved
// chains. No operation is fused or approximate.
#pragma once

#include <cstdint>
#include <span>

#include "lib/dtype.h"
#include "lib/encoding.h"
#include "quant/fit_block.h"

namespace pennyweight {

// Elements as they are decoded: OCP E4M3, E5M2 and E2M1 (ties to even, beyond the largest finite
// value saturated), bitsandbytes' NF4 and FP4 (16 levels in [-1, 1]; halfway to the level of less
// magnitude in FP4, to the lower one in NF4).
enum class ElementSet : uint8_t { kE4M3, kE5M2, kE2M1, kNf4, kFp4 };

// Precondition: F8_E4M3, F8_E5M2 or F4.
ElementSet SetOf(DType dtype);
ElementSet SetOf(CodebookSpec::Book book);
// 448, 57344, 6, 1, 1.
float LargestElement(ElementSet set);
// The code of the value 0.
uint8_t ZeroCode(ElementSet set);
// The values of codes 0 to 15. Source: bitsandbytes/functional.py, get_4bit_type
// (github.com/bitsandbytes-foundation/bitsandbytes); NF4 is of Dettmers et al. 2023
// (arXiv 2305.14314), appendix E.
std::span<const float> LevelsOf(CodebookSpec::Book book);

// The bits of the largest magnitude of each `group` consecutive values of x[n] (the last group may
// be shorter). They order as magnitudes do, with infinity (0x7f800000) and NaN above all numbers.
void GroupMagnitudes(const float* x, int64_t n, int64_t group, uint32_t* bits);

// codes[i]: the element nearest to x[i] / scale of its group; one code in a byte, x finite, scales
// not 0.
void EncodeGroups(ElementSet set, const float* x, int64_t n, int64_t group, const float* scales,
                  uint8_t* codes);

// The same of E2M1 where every scale is a power of two, from 2^-127 to 2^127.
void EncodePowerGroups(const float* x, int64_t n, int64_t group, const float* scales,
                       uint8_t* codes);

// Sums over the nearest elements q of x / scale: `a / b` is the best scale for them.
struct ElementSums {
  float a;  // sum h x q
  float b;  // sum h q^2
};
ElementSums SumElements(ElementSet set, const KernelBlock& block, float scale);
// Sum of h (x - scale q)^2.
float SumElementErrors(ElementSet set, const KernelBlock& block, float scale);

// Bytes of two codes, the first in the low half. Precondition: n is even.
void PackHalves(const uint8_t* codes, int64_t n, uint8_t* bytes);

}  // namespace pennyweight
