// What the tests of lib/linalg share: matrices with guards around them, and the exact product.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "hwy/targets.h"
#include "lib/linalg.h"

namespace pennyweight::linalg_test {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr double kEpsilon = 0x1p-24;  // half a unit in the last place of 1.0f
inline constexpr float kGuard = 12345.0f;    // what must not be overwritten

inline Context Threads(int threads) {
  Context context;
  context.threads = threads;
  return context;
}

// Runs `body` once per instruction set that this CPU has and that was compiled.
template <class Body>
void ForEachTarget(const Body& body) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    CAPTURE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    body();
    hwy::SetSupportedTargetsForTest(0);
  }
}

// A row-major matrix with `pad` extra elements per row, which hold `filler`.
struct Matrix {
  Matrix(int64_t rows_in, int64_t cols_in, int64_t pad, float filler)
      : rows(rows_in),
        cols(cols_in),
        stride(cols_in + pad),
        values(static_cast<size_t>(rows * stride), filler) {}

  float& At(int64_t i, int64_t j) { return values[static_cast<size_t>(i * stride + j)]; }
  float At(int64_t i, int64_t j) const { return values[static_cast<size_t>(i * stride + j)]; }
  float* data() { return values.data(); }
  const float* data() const { return values.data(); }

  int64_t rows, cols, stride;
  std::vector<float> values;
};

inline Matrix Random(int64_t rows, int64_t cols, int64_t pad, float filler, uint32_t seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  Matrix matrix(rows, cols, pad, filler);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) matrix.At(i, j) = uniform(engine);
  }
  return matrix;
}

// How far a sum of `k` fp32 products may be from the exact one: rounding errors of random sign
// grow with the root of their number. `magnitude` is the sum of the absolute values.
inline double Tolerance(int64_t k, double magnitude) {
  return kEpsilon * (4 + 2 * std::sqrt(static_cast<double>(k))) * magnitude + 1e-30;
}

inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Counts the elements of `c` that are not before + sign * A B^T, or guards that were overwritten.
// A and B are as the kernels saw them; `upper` expects the strict lower triangle untouched.
inline int64_t CountWrong(const Matrix& a, const Matrix& b, const Matrix& before, double keep,
                          double sign, bool upper, const Matrix& c) {
  int64_t wrong = 0;
  for (int64_t i = 0; i < c.rows; ++i) {
    for (int64_t j = 0; j < c.stride; ++j) {
      if (j >= c.cols || (upper && j < i)) {
        wrong += std::memcmp(&before.values[static_cast<size_t>(i * c.stride + j)],
                             &c.values[static_cast<size_t>(i * c.stride + j)], 4) != 0;
        continue;
      }
      double sum = 0, magnitude = 0;
      for (int64_t p = 0; p < a.cols; ++p) {
        const double product = double{a.At(i, p)} * b.At(j, p);
        sum += product;
        magnitude += std::abs(product);
      }
      const double expected = (keep != 0 ? keep * before.At(i, j) : 0) + sign * sum;
      if (keep != 0) magnitude += std::abs(before.At(i, j));
      wrong += !(std::abs(c.At(i, j) - expected) <= Tolerance(a.cols, magnitude));
    }
  }
  return wrong;
}

inline Matrix Transposed(const Matrix& from) {
  Matrix to(from.cols, from.rows, 0, 0);
  for (int64_t i = 0; i < from.rows; ++i) {
    for (int64_t j = 0; j < from.cols; ++j) to.At(j, i) = from.At(i, j);
  }
  return to;
}

// B as stored in `dtype`; `b` becomes what was stored.
inline std::vector<uint8_t> Store(DType dtype, Matrix& b) {
  std::vector<uint8_t> stored(b.values.size() * static_cast<size_t>(DTypeBits(dtype) / 8));
  EncodeFromFloat(dtype, b.data(), stored.data(), b.values.size());
  DecodeToFloat(dtype, stored.data(), b.data(), b.values.size());
  return stored;
}

inline GemmArgs Arguments(const Matrix& a, const void* b, DType dtype, int64_t b_stride,
                          Matrix& c) {
  GemmArgs args;
  args.m = c.rows;
  args.n = c.cols;
  args.k = a.cols;
  args.a = a.data();
  args.a_stride = a.stride;
  args.b = b;
  args.b_dtype = dtype;
  args.b_stride = b_stride;
  args.c = c.data();
  args.c_stride = c.stride;
  return args;
}

// X^T X / t + damping of random X whose columns have very different sizes, as activations have.
// What is below the diagonal is NaN: FactorUpper reads the upper triangle only.
inline Matrix Hessian(int64_t k, int64_t pad, uint32_t seed) {
  Matrix x = Random(k + 8, k, 0, 0, seed);
  for (int64_t i = 0; i < x.rows; ++i) {
    for (int64_t j = 0; j < k; ++j) x.At(i, j) *= j % 7 == 0 ? 30.0f : 0.1f * float(1 + j % 5);
  }
  Matrix h(k, k, pad, kGuard);
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      double sum = i == j ? 0.01 * double(x.rows) : 0;
      for (int64_t p = 0; p < x.rows && j >= i; ++p) sum += double{x.At(p, i)} * x.At(p, j);
      h.At(i, j) = j < i ? kNan : static_cast<float>(sum);
    }
  }
  return h;
}

}  // namespace pennyweight::linalg_test
