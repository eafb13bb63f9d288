// Cholesky factor and triangular solves within one panel (lib/linalg_panels.h).
//
// Recursive Cholesky from the bottom-right corner: with H = [[H1, B], [B^T, H2]] and R likewise,
//   R2 = factor(H2), X = B R2^-T, R1 = factor(H1 - X X^T),
// and the solve with R2 = [[S1, T], [0, S2]] halves in the same way. Nearly all the work is in
// products of large blocks (Gustavson, "Recursion leads to automatic variable blocking for dense
// linear-algebra algorithms", 1997). Cuts are multiples of kLeaf, so they depend on k only.
#include <algorithm>
#include <cmath>

#include "lib/linalg.h"
#include "lib/linalg_panels.h"
#include "lib/linalg_product.h"
#include "lib/parallel.h"

namespace pennyweight::linalg {
namespace {

// Rows or columns of the first half.
int64_t Cut(int64_t n) { return n / 2 / kLeaf * kLeaf == 0 ? kLeaf : n / 2 / kLeaf * kLeaf; }

// The unblocked algorithm, in double: it is a vanishing part of the work, and the pivots decide.
bool FactorLeaf(int64_t n, Block h) {
  double r[kLeaf][kLeaf];  // r[j] is column j of the block
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i <= j; ++i) r[j][i] = h.data[i * h.stride + j];
  }
  for (int64_t j = n - 1; j >= 0; --j) {
    // As it is stored: a pivot that is lost in fp32 would be divided by later.
    const float pivot = static_cast<float>(r[j][j]);
    if (!(pivot > 0) || !std::isfinite(pivot)) return false;
    const double root = std::sqrt(r[j][j]);
    r[j][j] = root;
    for (int64_t i = 0; i < j; ++i) r[j][i] /= root;
    for (int64_t l = 0; l < j; ++l) {
      const double scale = r[j][l];
      for (int64_t i = 0; i <= l; ++i) r[l][i] -= r[j][i] * scale;
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    float* row = h.data + i * h.stride;
    std::fill_n(row, i, 0.0f);
    for (int64_t j = i; j < n; ++j) row[j] = static_cast<float>(r[j][i]);
  }
  return true;
}

// X[m, n] with one diagonal block of R, in tasks of kLeaf rows.
void SolveLeaves(const Context& context, int64_t m, int64_t n, Block x, Block r,
                 void (*solve)(const SolveArgs&)) {
  ParallelFor(context, (m + kLeaf - 1) / kLeaf, [&](int64_t i) {
    SolveArgs args;
    args.rows = std::min(kLeaf, m - i * kLeaf);
    args.n = n;
    args.x = x.At(i * kLeaf, 0).data;
    args.x_stride = x.stride;
    args.r = r.data;
    args.r_stride = r.stride;
    solve(args);
  });
}

}  // namespace

void SubtractBlock(const Context& context, int64_t m, int64_t n, int64_t k, Block a, Block b,
                   Block c, bool upper) {
  Product product;
  product.m = m;
  product.n = n;
  product.k = k;
  product.a.data = a.data;
  product.a.stride = a.stride;
  product.b.data = b.data;
  product.b.stride = b.stride;
  product.c = c.data;
  product.c_stride = c.stride;
  product.update = Update::kSubtract;
  product.upper = upper;
  Multiply(context, product);
}

void SolveTransposedBlock(const Context& context, int64_t m, int64_t n, Block x, Block r) {
  if (n > kLeaf) {
    const int64_t cut = Cut(n);
    SolveTransposedBlock(context, m, n - cut, x.At(0, cut), r.At(cut, cut));
    SubtractBlock(context, m, cut, n - cut, x.At(0, cut), r.At(0, cut), x, false);
    SolveTransposedBlock(context, m, cut, x, r);
    return;
  }
  SolveLeaves(context, m, n, x, r, GetKernels().solve_transposed);
}

void SolveBlock(const Context& context, int64_t m, int64_t n, Block x, Block r) {
  if (n > kLeaf) {
    const int64_t cut = Cut(n);
    SolveBlock(context, m, cut, x, r);
    GemmNnArgs args;
    args.m = m;
    args.n = n - cut;
    args.k = cut;
    args.a = x.data;
    args.a_stride = x.stride;
    args.b = r.At(0, cut).data;
    args.b_stride = r.stride;
    args.c = x.At(0, cut).data;
    args.c_stride = x.stride;
    args.subtract = true;
    GemmNn(context, args);
    SolveBlock(context, m, n - cut, x.At(0, cut), r.At(cut, cut));
    return;
  }
  SolveLeaves(context, m, n, x, r, GetKernels().solve);
}

bool FactorBlock(const Context& context, int64_t n, Block h) {
  if (n <= kLeaf) return FactorLeaf(n, h);
  const int64_t cut = Cut(n);
  if (!FactorBlock(context, n - cut, h.At(cut, cut))) return false;
  SolveTransposedBlock(context, cut, n - cut, h.At(0, cut), h.At(cut, cut));
  SubtractBlock(context, cut, cut, n - cut, h.At(0, cut), h.At(0, cut), h, true);
  return FactorBlock(context, cut, h);
}

}  // namespace pennyweight::linalg
