#include <algorithm>

#include "lib/linalg.h"
#include "lib/linalg_product.h"
#include "lib/parallel.h"

namespace pennyweight {
namespace {

using linalg::Product;
using linalg::Update;

// Up to this many rows of A, packing B costs more than it saves: every weight is used too rarely.
// These are always computed in fp32.
constexpr int64_t kFewRows = 8;

linalg::Operand WeightOperand(const GemmArgs& args) {
  linalg::Operand b;
  b.data = args.b;
  b.dtype = args.b_dtype;
  b.stride = args.b_stride;
  return b;
}

void GemmFewRows(const Context& context, const GemmArgs& args) {
  const linalg::Kernels& kernels = linalg::GetKernels();
  constexpr int64_t kBlock = 64;
  ParallelFor(context, (args.n + kBlock - 1) / kBlock, [&](int64_t block) {
    linalg::DotArgs dot;
    dot.a_stride = args.a_stride;
    dot.b = WeightOperand(args);
    dot.first = block * kBlock;
    dot.n = std::min(kBlock, args.n - dot.first);
    dot.k = args.k;
    dot.c_stride = args.c_stride;
    dot.accumulate = args.accumulate;
    for (int64_t row = 0; row < args.m; row += linalg::kDotRows) {
      dot.m = std::min(linalg::kDotRows, args.m - row);
      dot.a = args.a + row * args.a_stride;
      dot.c = args.c + row * args.c_stride + dot.first;
      kernels.dot(dot);
    }
  });
}

}  // namespace

void Gemm(const Context& context, const GemmArgs& args) {
  if (args.m <= kFewRows) {
    GemmFewRows(context, args);
    return;
  }
  Product product;
  product.m = args.m;
  product.n = args.n;
  product.k = args.k;
  product.a.data = args.a;
  product.a.stride = args.a_stride;
  product.b = WeightOperand(args);
  product.c = args.c;
  product.c_stride = args.c_stride;
  product.update = args.accumulate ? Update::kAdd : Update::kStore;
  product.precision = args.precision;
  linalg::Multiply(context, product);
}

void GemmNn(const Context& context, const GemmNnArgs& args) {
  Product product;
  product.m = args.m;
  product.n = args.n;
  product.k = args.k;
  product.a.data = args.a;
  product.a.stride = args.a_stride;
  product.b.data = args.b;
  product.b.stride = args.b_stride;
  product.b.transposed = true;
  product.c = args.c;
  product.c_stride = args.c_stride;
  product.update = args.subtract     ? Update::kSubtract
                   : args.accumulate ? Update::kAdd
                                     : Update::kStore;
  linalg::Multiply(context, product);
}

}  // namespace pennyweight
