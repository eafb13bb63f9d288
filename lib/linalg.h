// Dense linear algebra in fp32 for calibration and the forward pass: matrix product, symmetric
// rank-k update, Cholesky factorisation. Summation order depends on the shapes only, never on the
// number of threads. Matrices are row-major; `stride` counts elements between rows.
#pragma once

#include <cstdint>

#include "lib/context.h"
#include "lib/dtype.h"
#include "lib/result.h"

namespace pennyweight {

// Reads the environment variable PENNYWEIGHT_ISA, which names the path to take: avx2, avx3, amx,
// or bf16 (what kBf16 permits is done, in fp32 kernels: the numbers of AMX on any CPU). Where it is
// not called, the first product does it, and an impossible choice counts as none. Call it before
// there are threads. Errors: kUsage, kUnsupported (not on this CPU).
Status SelectComputePath();

// The path that these functions take here ("AMX", "AVX3", "AVX2", "AVX3+bf16", ...): sums may
// differ between two of them. "AMX" computes kFull as "AVX3" does.
const char* ComputePath();

// kBf16 permits both operands to be rounded to the nearest bf16 (exact for weights stored so); sums
// stay fp32. Only then AMX is used; elsewhere it is computed as kFull.
enum class Precision : uint8_t { kFull, kBf16 };

// C[m, n] = A[m, k] * B[n, k]^T, or += when accumulate. B is F32, F16 or BF16 and is converted
// while it is packed. This is y = x W^T of a linear with W [out, in].
struct GemmArgs {
  int64_t m = 0, n = 0, k = 0;
  const float* a = nullptr;
  int64_t a_stride = 0;
  const void* b = nullptr;
  DType b_dtype = DType::kF32;
  int64_t b_stride = 0;  // elements
  float* c = nullptr;
  int64_t c_stride = 0;
  bool accumulate = false;
  Precision precision = Precision::kFull;
};
void Gemm(const Context& context, const GemmArgs& args);

// C[m, n] (+)= A[m, k] * B[k, n], all F32, B not transposed.
struct GemmNnArgs {
  int64_t m = 0, n = 0, k = 0;
  const float* a = nullptr;
  int64_t a_stride = 0;
  const float* b = nullptr;
  int64_t b_stride = 0;
  float* c = nullptr;
  int64_t c_stride = 0;
  bool accumulate = false;
  bool subtract = false;  // C -= A B; implies accumulate
};
void GemmNn(const Context& context, const GemmNnArgs& args);

// Upper triangle (with diagonal) of H[k, k] += X[t, k]^T * X[t, k]. The rest of H is not touched.
void SyrkUpper(const Context& context, int64_t t, int64_t k, const float* x, int64_t x_stride,
               float* h, int64_t h_stride, Precision precision = Precision::kFull);

// In place: the upper triangle of a symmetric positive definite H[k, k] becomes the upper
// triangular R with H = R * R^T (note: not R^T * R). The strict lower triangle is set to zero.
// False when a pivot is not positive; H is then destroyed.
// This is the Cholesky factor of H with both axes reversed; it gives GPTQ's update from left to
// right without inverting H (see quant/gptq.h).
bool FactorUpper(const Context& context, int64_t k, float* h, int64_t h_stride);

// B[rows, k] becomes B (R R^T)^-1 for what FactorUpper left: all matrices without gaps.
void SolveUpper(const Context& context, int64_t rows, int64_t k, const float* r, float* b);

}  // namespace pennyweight
