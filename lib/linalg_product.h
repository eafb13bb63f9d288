// The one loop nest behind Gemm, GemmNn, SyrkUpper and FactorUpper. Private to lib/linalg_*.cc.
#pragma once

#include "lib/context.h"
#include "lib/linalg.h"
#include "lib/linalg_kernels.h"

namespace pennyweight::linalg {

// C[m, n] (update)= A[m, k] B[n, k]^T, either operand possibly stored transposed.
struct Product {
  int64_t m = 0, n = 0, k = 0;
  Operand a, b;
  float* c = nullptr;
  int64_t c_stride = 0;
  Update update = Update::kStore;
  bool upper = false;  // only elements with column >= row; the others are not touched
  Precision precision = Precision::kFull;  // kBf16: update is not kSubtract
};

// Every element of C is summed in the order of the packed slabs, which depends on k alone, by one
// task: a block of C computed for itself has the bytes that it has within a larger C. At most about
// 10 MB of packed operands (AMX: 26 MB), whatever the number of threads.
void Multiply(const Context& context, const Product& product);

}  // namespace pennyweight::linalg
