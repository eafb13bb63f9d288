#include "lib/linalg.h"
#include "lib/linalg_product.h"

namespace pennyweight {

void SyrkUpper(const Context& context, int64_t t, int64_t k, const float* x, int64_t x_stride,
               float* h, int64_t h_stride, Precision precision) {
  linalg::Product product;
  product.m = product.n = k;
  product.k = t;
  product.a.data = x;
  product.a.stride = x_stride;
  product.a.transposed = true;
  product.b = product.a;
  product.c = h;
  product.c_stride = h_stride;
  product.update = linalg::Update::kAdd;
  product.upper = true;
  product.precision = precision;
  linalg::Multiply(context, product);
}

}  // namespace pennyweight
