// Row operations of the forward pass and of scoring, vectorised for the CPU at hand. Rows are
// contiguous floats without alignment. The order of every sum depends on the row's length and on
// the CPU's vector width only.
#pragma once

#include <cstdint>
#include <functional>

#include "lib/context.h"

namespace pennyweight {

// Calls body(first, last) for blocks of a constant number of rows, in parallel.
void ForRowBlocks(const Context& context, int64_t rows,
                  const std::function<void(int64_t first, int64_t last)>& body);

// out = in * weight / sqrt(mean(in^2) + epsilon); squares are summed in double. in may be out.
void RmsNormRow(const float* in, const float* weight, int64_t n, double epsilon, float* out);

// Rotates each head of a token in Hugging Face's half-split layout, in place: elements i and
// i + head_dim / 2 by the angle whose cosine and sine stand at i of [head_dim / 2].
void RotateHeads(float* row, int64_t heads, int64_t head_dim, const float* cosine,
                 const float* sine);

// out = gate / (1 + exp(-gate)) * up.
void SiluGateRow(const float* gate, const float* up, int64_t n, float* out);

// out += in.
void AddRow(const float* in, int64_t n, float* out);

// out += in * scale.
void AddScaledRow(const float* in, float scale, int64_t n, float* out);

// row = softmax(row * scale), scale > 0; the sum is taken in double.
void SoftmaxRow(float* row, int64_t n, float scale);

// The largest value; NaN when any value is NaN or infinite. n > 0.
float MaxOfRow(const float* row, int64_t n);

// Sum of exp(row - max) in double. Values are finite.
double SumExp(const float* row, int64_t n, float max);

// Sum of exp(row - max) * (row - other) in double: the numerator of a KL divergence.
double SumExpDifference(const float* row, const float* other, int64_t n, float max);

}  // namespace pennyweight
