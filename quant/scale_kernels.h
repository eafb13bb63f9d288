// The inner loops of the scale searches: sums over the nearest codes of one block. Compiled for
// each instruction set and chosen at run time; results are the same bits on all of them, because
// sums are kept in eight interleaved chains and no operation is fused or approximate.
#pragma once

#include <cstdint>

namespace pennyweight {

// x, importance h and h * x of a block; n is a multiple of 8, padding has h = x = 0.
struct KernelBlock {
  const float* x;
  const float* h;
  const float* hx;
  int64_t n;
};

// Sums over q = nearest integer of clamp((x - offset) * inverse, lo, hi).
struct KernelSums {
  float q;   // sum h q
  float qq;  // sum h q^2
  float xq;  // sum h x q
};
KernelSums SumCodes(const KernelBlock& block, float lo, float hi, float inverse, float offset);

// Sum of h (x - (scale q + offset))^2 over the same codes.
float SumErrors(const KernelBlock& block, float lo, float hi, float inverse, float scale,
                float offset);

}  // namespace pennyweight
