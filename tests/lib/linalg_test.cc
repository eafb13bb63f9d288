#include "lib/linalg.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "lib/linalg_kernels.h"
#include "tests/lib/linalg_test_util.h"

namespace pennyweight {
namespace {

using namespace linalg_test;  // NOLINT(google-build-using-namespace)

void CheckGemm(int64_t m, int64_t n, int64_t k, int64_t pad, DType dtype, bool accumulate) {
  CAPTURE(m);
  CAPTURE(n);
  CAPTURE(k);
  CAPTURE(DTypeName(dtype));
  CAPTURE(accumulate);
  const Matrix a = Random(m, k, pad, kNan, 1);
  Matrix b = Random(n, k, pad, kNan, 2);
  const std::vector<uint8_t> stored = Store(dtype, b);
  // Without accumulate the old content must not be read: NaN would spread.
  const Matrix before = accumulate ? Random(m, n, pad, kGuard, 3) : Matrix(m, n, pad, kNan);
  Matrix c = before;
  GemmArgs args = Arguments(a, stored.data(), dtype, b.stride, c);
  args.accumulate = accumulate;
  Gemm(Threads(2), args);
  CHECK(CountWrong(a, b, before, accumulate ? 1 : 0, 1, false, c) == 0);
}

TEST_CASE("linalg: every compiled target has kernels of its own") {
  std::set<const linalg::Kernels*> tables;
  size_t targets = 0;
  ForEachTarget([&] {
    ++targets;
    tables.insert(&linalg::GetKernels());
  });
  CHECK(targets >= 1);
  CHECK(tables.size() == targets);
}

TEST_CASE("linalg: Gemm against fp64, all targets and dtypes") {
  struct Shape {
    int64_t m, n, k, pad;
  };
  const Shape shapes[] = {{1, 1, 1, 0},     {1, 7, 5, 3},      {2, 65, 33, 0},  {3, 31, 127, 1},
                          {4, 1, 64, 0},    {5, 130, 17, 2},   {8, 9, 16, 0},   {9, 1, 3, 5},
                          {13, 11, 1, 0},   {14, 32, 16, 0},   {15, 33, 15, 1}, {16, 64, 400, 0},
                          {28, 96, 769, 0}, {101, 103, 97, 7}, {64, 3, 200, 4}, {257, 40, 31, 0}};
  ForEachTarget([&] {
    for (const Shape& shape : shapes) {
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        for (const bool accumulate : {false, true}) {
          CheckGemm(shape.m, shape.n, shape.k, shape.pad, dtype, accumulate);
        }
      }
    }
  });
}

TEST_CASE("linalg: Gemm over several slabs of rows, columns and depth") {
  CheckGemm(2100, 37, 801, 0, DType::kF32, false);
  CheckGemm(23, 4230, 500, 1, DType::kBF16, true);
}

TEST_CASE("linalg: Gemm of random shapes") {
  std::mt19937 engine(20);
  const auto draw = [&](int64_t most) { return 1 + static_cast<int64_t>(engine() % most); };
  ForEachTarget([&] {
    for (int round = 0; round < 40; ++round) {
      CheckGemm(draw(90), draw(150), draw(500), draw(4) - 1,
                round % 3 == 0 ? DType::kF16 : DType::kF32, round % 2 == 0);
    }
  });
}

TEST_CASE("linalg: every F16 and BF16 value is converted exactly") {
  std::vector<uint16_t> bits(1 << 16);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  std::vector<float> exact(bits.size());
  ForEachTarget([&] {
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
      CAPTURE(DTypeName(dtype));
      DecodeToFloat(dtype, bits.data(), exact.data(), bits.size());
      for (const int64_t m : {int64_t{1}, int64_t{9}}) {  // dot products; packed
        const Matrix a(m, 1, 0, 1.0f);
        Matrix c(m, 1 << 16, 0, kNan);
        Gemm(Threads(1), Arguments(a, bits.data(), dtype, 1, c));
        int64_t wrong = 0;
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t j = 0; j < c.cols; ++j) {
            const float expected = exact[static_cast<size_t>(j)];
            wrong += std::isnan(expected) ? !std::isnan(c.At(i, j)) : c.At(i, j) != expected;
          }
        }
        CHECK(wrong == 0);
      }
    }
  });
}

TEST_CASE("linalg: a summed axis of length zero") {
  const Matrix a(9, 0, 1, kNan), b(5, 0, 1, kNan);
  for (const int64_t m : {int64_t{2}, int64_t{9}}) {
    Matrix c = Random(m, 5, 2, kGuard, 4);
    const Matrix before = c;
    GemmArgs args = Arguments(a, b.data(), DType::kF32, 1, c);
    args.accumulate = true;
    Gemm(Threads(1), args);
    CHECK(SameBits(c.values, before.values));
    args.accumulate = false;
    Gemm(Threads(1), args);
    CHECK(c.At(m - 1, 4) == 0.0f);
    CHECK(c.At(0, 0) == 0.0f);
    CHECK(c.values[5] == kGuard);
  }
}

TEST_CASE("linalg: an infinite or NaN input reaches its own outputs only") {
  for (const int64_t m : {int64_t{3}, int64_t{20}}) {
    Matrix a = Random(m, 50, 0, 0, 5);
    Matrix b = Random(40, 50, 0, 0, 6);
    a.At(2, 49) = kNan;
    b.At(17, 3) = std::numeric_limits<float>::infinity();
    Matrix c(m, 40, 0, 0);
    Gemm(Threads(1), Arguments(a, b.data(), DType::kF32, 50, c));
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < 40; ++j) CHECK(std::isfinite(c.At(i, j)) == (i != 2 && j != 17));
    }
  }
}

TEST_CASE("linalg: GemmNn against fp64, store, accumulate and subtract") {
  struct Shape {
    int64_t m, n, k, pad;
  };
  const Shape shapes[] = {{1, 1, 1, 0},   {1, 64, 300, 2},  {5, 3, 2, 1},   {14, 32, 64, 0},
                          {17, 35, 9, 3}, {61, 67, 403, 0}, {240, 1, 5, 0}, {100, 270, 33, 5}};
  ForEachTarget([&] {
    for (const Shape& shape : shapes) {
      CAPTURE(shape.m);
      CAPTURE(shape.n);
      CAPTURE(shape.k);
      const Matrix a = Random(shape.m, shape.k, shape.pad, kNan, 7);
      const Matrix b = Random(shape.k, shape.n, shape.pad, kNan, 8);
      for (const int mode : {0, 1, 2}) {
        const Matrix before = mode == 0 ? Matrix(shape.m, shape.n, shape.pad, kNan)
                                        : Random(shape.m, shape.n, shape.pad, kGuard, 9);
        Matrix c = before;
        GemmNnArgs args;
        args.m = shape.m;
        args.n = shape.n;
        args.k = shape.k;
        args.a = a.data();
        args.a_stride = a.stride;
        args.b = b.data();
        args.b_stride = b.stride;
        args.c = c.data();
        args.c_stride = c.stride;
        args.accumulate = mode == 1;
        args.subtract = mode == 2;
        GemmNn(Threads(2), args);
        CHECK(CountWrong(a, Transposed(b), before, mode == 0 ? 0 : 1, mode == 2 ? -1 : 1, false,
                         c) == 0);
      }
    }
  });
}

void CheckSyrk(int64_t t, int64_t k, int64_t pad) {
  CAPTURE(t);
  CAPTURE(k);
  const Matrix x = Random(t, k, pad, kNan, 10);
  const Matrix before = Random(k, k, pad, kGuard, 11);
  Matrix h = before;
  SyrkUpper(Threads(2), t, k, x.data(), x.stride, h.data(), h.stride);
  const Matrix columns = Transposed(x);
  CHECK(CountWrong(columns, columns, before, 1, 1, true, h) == 0);
}

TEST_CASE("linalg: SyrkUpper against fp64; nothing below the diagonal is touched") {
  ForEachTarget([&] {
    for (const int64_t k : {1, 2, 13, 14, 32, 33, 97, 300}) {
      CheckSyrk(1, k, 0);
      CheckSyrk(77, k, 3);
    }
    CheckSyrk(1000, 70, 0);
  });
  CheckSyrk(2, 4300, 0);  // several slabs of rows and of columns
}

// The textbook algorithm in double.
std::vector<double> ReferenceFactor(const Matrix& h) {
  const int64_t k = h.rows;
  std::vector<double> r(static_cast<size_t>(k * k), 0.0);
  for (int64_t j = k - 1; j >= 0; --j) {
    for (int64_t i = j; i >= 0; --i) {
      double sum = h.At(i, j);
      for (int64_t l = j + 1; l < k; ++l) sum -= r[i * k + l] * r[j * k + l];
      r[i * k + j] = i == j ? std::sqrt(sum) : sum / r[j * k + j];
    }
  }
  return r;
}

void CheckFactor(int64_t k, int64_t pad) {
  CAPTURE(k);
  const Matrix h = Hessian(k, pad, 12);
  Matrix r = h;
  REQUIRE(FactorUpper(Threads(2), k, r.data(), r.stride));
  const std::vector<double> reference = ReferenceFactor(h);
  int64_t wrong = 0;
  double error = 0, norm = 0;
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < r.stride; ++j) {
      if (j >= k) {
        wrong += r.At(i, j) != kGuard;
      } else if (j < i) {
        wrong += r.At(i, j) != 0.0f;
      } else {
        // Backward error: R R^T is H up to rounding of terms no larger than sqrt(H_ii H_jj).
        double sum = 0;
        for (int64_t l = j; l < k; ++l) sum += double{r.At(i, l)} * r.At(j, l);
        const double scale = std::sqrt(double{h.At(i, i)} * h.At(j, j));
        wrong += !(std::abs(sum - h.At(i, j)) <= Tolerance(k, scale));
        const double difference = r.At(i, j) - reference[i * k + j];
        error += difference * difference;
        norm += reference[i * k + j] * reference[i * k + j];
      }
    }
    wrong += !(r.At(i, i) > 0);
  }
  CHECK(wrong == 0);
  CHECK(std::sqrt(error / norm) < 1e-5);
}

TEST_CASE("linalg: FactorUpper gives R with H = R R^T") {
  ForEachTarget([&] {
    for (const int64_t k : {1, 2, 3, 17, 63, 64, 65, 127, 128, 129, 200, 331}) {
      CheckFactor(k, k % 2 == 0 ? 0 : 5);
    }
  });
  CheckFactor(640, 1);
}

TEST_CASE("linalg: SolveUpper gives X with X R R^T = B") {
  ForEachTarget([&] {
    for (const int64_t k : {1, 2, 63, 64, 65, 129, 200, 331}) {
      CAPTURE(k);
      Matrix r = Hessian(k, 0, 18);
      const Matrix h = r;
      REQUIRE(FactorUpper(Threads(2), k, r.data(), r.stride));
      for (const int64_t rows : {int64_t{1}, int64_t{67}}) {
        const Matrix b = Random(rows, k, 0, 0, 19);
        Matrix x = b;
        SolveUpper(Threads(2), rows, k, r.data(), x.data());
        double error = 0, norm = 0;
        for (int64_t i = 0; i < rows; ++i) {
          for (int64_t j = 0; j < k; ++j) {
            double sum = 0;  // only the upper triangle of H is sure to be there
            for (int64_t l = 0; l < k; ++l) {
              sum += double{x.At(i, l)} * h.At(std::min(l, j), std::max(l, j));
            }
            error += (sum - b.At(i, j)) * (sum - b.At(i, j));
            norm += double{b.At(i, j)} * b.At(i, j);
          }
        }
        CHECK(std::sqrt(error / norm) < 1e-4);
      }
    }
  });
}

TEST_CASE("linalg: FactorUpper of a matrix that is not positive definite") {
  for (const int64_t k : {1, 2, 64, 70, 200, 333}) {
    CAPTURE(k);
    for (const int64_t at : {int64_t{0}, k / 2, k - 1}) {
      CAPTURE(at);
      for (const float pivot : {0.0f, -1.0f, kNan, std::numeric_limits<float>::infinity()}) {
        Matrix h = Hessian(k, 0, 13);
        h.At(at, at) = pivot;
        CHECK_FALSE(FactorUpper(Threads(2), k, h.data(), h.stride));
      }
    }
  }
  // All of the diagonal is positive, but an eigenvalue is not.
  Matrix h(2, 2, 0, 1.0f);
  h.At(0, 1) = 2.0f;
  CHECK_FALSE(FactorUpper(Threads(1), 2, h.data(), 2));
  Matrix large = Hessian(150, 0, 14);
  for (int64_t i = 0; i < 150; ++i) {
    for (int64_t j = i; j < 150; ++j) large.At(i, j) -= i == j ? 0.0f : 100.0f;
  }
  CHECK_FALSE(FactorUpper(Threads(1), 150, large.data(), large.stride));
  CHECK(FactorUpper(Threads(1), 0, nullptr, 0));
}

TEST_CASE("linalg: results are the same for every number of threads") {
  const Matrix a = Random(300, 450, 0, 0, 15);
  const Matrix b = Random(700, 450, 0, 0, 16);
  const Matrix h = Hessian(333, 0, 17);
  ForEachTarget([&] {
    std::vector<std::vector<float>> first;
    for (const int threads : {1, 2, 5}) {
      CAPTURE(threads);
      const Context context = Threads(threads);
      std::vector<std::vector<float>> results;
      for (const int64_t m : {int64_t{7}, int64_t{300}}) {
        Matrix c(m, 700, 0, 0);
        Gemm(context, Arguments(a, b.data(), DType::kF32, b.stride, c));
        results.push_back(c.values);
      }
      Matrix product(450, 450, 0, 0.5f);
      SyrkUpper(context, 300, 450, a.data(), a.stride, product.data(), product.stride);
      results.push_back(product.values);
      Matrix r = h;
      REQUIRE(FactorUpper(context, 333, r.data(), r.stride));
      results.push_back(r.values);
      Matrix solved = Random(150, 333, 0, 0, 20);
      SolveUpper(context, 150, 333, r.data(), solved.data());
      results.push_back(solved.values);
      if (threads == 1) first = results;
      for (size_t i = 0; i < results.size(); ++i) CHECK(SameBits(results[i], first[i]));
    }
  });
}

// The tensor bytes of a real model, read as BF16 rows of 288 whatever their tensors are.
TEST_CASE("linalg: Gemm and SyrkUpper on real weights") {
  const std::string path =
      std::string(PENNYWEIGHT_SOURCE_DIR) + "/../shared/models/pd-llama-4M/model.safetensors";
  if (!std::filesystem::exists(path)) {
    MESSAGE("SKIPPED, not found: " << path);
    return;
  }
  std::ifstream file(path, std::ios::binary);
  uint64_t header = 0;
  file.read(reinterpret_cast<char*>(&header), sizeof(header));
  file.seekg(static_cast<std::streamoff>(8 + header));
  constexpr int64_t kRows = 300, kColumns = 288;
  std::vector<uint16_t> stored(kRows * kColumns);
  file.read(reinterpret_cast<char*>(stored.data()), kRows * kColumns * 2);
  REQUIRE(file.good());
  Matrix b(kRows, kColumns, 0, 0);
  DecodeToFloat(DType::kBF16, stored.data(), b.data(), stored.size());
  // Not zeros, and really weights: none of them is large.
  double largest = 0;
  for (const float value : b.values) largest = std::max(largest, std::abs(double{value}));
  REQUIRE(largest > 1e-3);
  REQUIRE(largest < 100);
  const Matrix a = Random(50, kColumns, 0, 0, 18);
  Matrix c(50, kRows, 0, 0);
  Gemm(Threads(2), Arguments(a, stored.data(), DType::kBF16, kColumns, c));
  CHECK(CountWrong(a, b, Matrix(50, kRows, 0, 0), 0, 1, false, c) == 0);
  Matrix h(kColumns, kColumns, 0, 0.25f);
  const Matrix before = h;
  SyrkUpper(Threads(2), kRows, kColumns, b.data(), kColumns, h.data(), kColumns);
  const Matrix columns = Transposed(b);
  CHECK(CountWrong(columns, columns, before, 1, 1, true, h) == 0);
}

}  // namespace
}  // namespace pennyweight
