#include "lib/panel_matrix.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "lib/linalg_panels.h"
#include "tests/lib/linalg_test_util.h"

namespace pennyweight {
namespace {

using namespace linalg_test;  // NOLINT(google-build-using-namespace)

std::string ScratchDir() { return std::filesystem::temp_directory_path().string(); }

// The upper triangle with zeros below, as a matrix without gaps.
std::vector<float> ReadAll(PanelMatrix& matrix) {
  const int64_t k = matrix.size();
  std::vector<float> all(static_cast<size_t>(k * k), kNan);
  REQUIRE(matrix.Read(Threads(2), 0, k, 0, k, all.data(), k).ok());
  return all;
}

// Activations whose columns have different sizes.
Matrix Activations(int64_t t, int64_t k, uint32_t seed) {
  Matrix x = Random(t, k, 3, kNan, seed);
  for (int64_t i = 0; i < t; ++i) {
    for (int64_t j = 0; j < k; ++j) x.At(i, j) *= j % 7 == 0 ? 30.0f : 0.1f * float(1 + j % 5);
  }
  return x;
}

// Products, scaling, factor and solve in memory, and in panels of which some are in a file.
void CheckAgainstMemory(int64_t k, int64_t panel, double resident, int threads) {
  CAPTURE(k);
  CAPTURE(panel);
  CAPTURE(resident);
  CAPTURE(threads);
  const Context context = Threads(threads);
  const uint64_t square = static_cast<uint64_t>(panel * panel) * sizeof(float);
  const uint64_t whole = static_cast<uint64_t>(k * (k + panel)) * 2;
  const uint64_t memory = 4 * square + static_cast<uint64_t>(resident * double(whole));
  auto made = PanelMatrix::CreateInPanels(k, memory, ScratchDir(), panel);
  REQUIRE(made.ok());
  PanelMatrix panels = std::move(made).value();
  CHECK((panels.scratch_bytes() > 0) == (resident < 1 && k > 2 * panel));
  Matrix h(k, k, 0, 0.0f);
  for (const uint32_t seed : {51u, 52u}) {
    const Matrix x = Activations(k / 2 + 20, k, seed);
    SyrkUpper(context, x.rows, k, x.data(), x.stride, h.data(), k);
    REQUIRE(panels.AddProduct(context, x.rows, x.data(), x.stride).ok());
  }
  CHECK(SameBits(ReadAll(panels), h.values));

  const float scale = 1.0f / 37, added = 0.01f;
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = i; j < k; ++j) h.At(i, j) *= scale;
    h.At(i, i) += added;
  }
  REQUIRE(panels.ScaleAndAdd(context, scale, added).ok());
  const auto diagonal = panels.Diagonal();
  REQUIRE(diagonal.ok());
  for (int64_t i = 0; i < k; ++i) CHECK((*diagonal)[static_cast<size_t>(i)] == h.At(i, i));

  REQUIRE(linalg::FactorUpperInPanels(context, k, h.data(), k, panel));
  const auto factored = panels.Factor(context);
  REQUIRE(factored.ok());
  REQUIRE(*factored);
  CHECK(SameBits(ReadAll(panels), h.values));

  Matrix b = Random(33, k, 0, 0, 53);
  Matrix x = b;
  linalg::SolveUpperInPanels(context, b.rows, k, h.data(), b.data(), panel);
  REQUIRE(panels.Solve(context, x.rows, x.data(), x.stride).ok());
  CHECK(SameBits(x.values, b.values));
}

TEST_CASE("panel matrix: the bytes of the same matrix in memory") {
  ForEachTarget([] {
    for (const int64_t k : {1, 64, 100, 256, 331}) {
      for (const double resident : {0.0, 0.4, 1.0}) CheckAgainstMemory(k, 64, resident, 2);
    }
  });
  CheckAgainstMemory(450, 100, 0.3, 1);
  CheckAgainstMemory(450, 100, 0.0, 5);
}

TEST_CASE("panel matrix: every element is visited once, changes are kept, and zeros come again") {
  const int64_t k = 130, panel = 40;
  for (const uint64_t panels : {4u, 6u, 100u}) {
    CAPTURE(panels);
    auto made =
        PanelMatrix::CreateInPanels(k, panels * panel * panel * sizeof(float), ScratchDir(), panel);
    REQUIRE(made.ok());
    const auto number = [&](const PanelMatrix::Panel& at, int64_t r) {
      for (int64_t c = 0; c < at.columns; ++c) {
        at.data[r * at.columns + c] += static_cast<float>((at.row + r) * k + at.column + c);
      }
    };
    REQUIRE(made->VisitRows(Threads(2), true, number).ok());
    const auto check = [&](float factor) {
      const std::vector<float> all = ReadAll(*made);
      int64_t wrong = 0;
      for (int64_t i = 0; i < k * k; ++i) {
        const float want = i / k <= i % k ? factor * static_cast<float>(i) : 0;
        wrong += all[static_cast<size_t>(i)] != want;
      }
      CHECK(wrong == 0);
    };
    check(1);
    std::atomic<int64_t> rows = 0;
    REQUIRE(made->VisitRows(Threads(2), false, [&](const PanelMatrix::Panel&, int64_t) { ++rows; })
                .ok());
    CHECK(rows == 40 + 80 + 120 + 130);
    made->Clear();
    check(0);
    REQUIRE(made->VisitRows(Threads(2), true, number).ok());
    check(1);
  }
}

TEST_CASE("panel matrix: the panels of FactorUpper itself") {
  const int64_t k = linalg::kPanel + 70;
  const uint64_t least = PanelMatrix::LeastBytes(k);
  CHECK(least < PanelMatrix::FullBytes(k) + 1);
  const Matrix x = Activations(40, k, 54);
  const auto fill = [&](PanelMatrix& h) {
    REQUIRE(h.AddProduct(Threads(2), x.rows, x.data(), x.stride).ok());
    REQUIRE(h.ScaleAndAdd(Threads(2), 1.0f / 40, 0.5f).ok());
  };
  Matrix whole(k, k, 0, 0.0f);
  SyrkUpper(Threads(2), x.rows, k, x.data(), x.stride, whole.data(), k);
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = i; j < k; ++j) whole.At(i, j) *= 1.0f / 40;
    whole.At(i, i) += 0.5f;
  }
  REQUIRE(FactorUpper(Threads(2), k, whole.data(), k));
  auto panels = PanelMatrix::Create(k, least, ScratchDir());
  REQUIRE(panels.ok());
  fill(*panels);
  const auto factored = panels->Factor(Threads(2));
  REQUIRE(factored.ok());
  REQUIRE(*factored);
  CHECK(SameBits(ReadAll(*panels), whole.values));
}

TEST_CASE("linalg: factor and solve across panels are right, in any panel") {
  const int64_t k = 331;
  Matrix h = Hessian(k, 2, 61);
  for (const int64_t panel : {40, 64, 100, 330, 400}) {
    CAPTURE(panel);
    Matrix r = h;
    REQUIRE(linalg::FactorUpperInPanels(Threads(2), k, r.data(), r.stride, panel));
    int64_t wrong = 0;
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        if (j < i) {
          wrong += r.At(i, j) != 0.0f;
          continue;
        }
        double sum = 0;
        for (int64_t l = j; l < k; ++l) sum += double{r.At(i, l)} * r.At(j, l);
        const double scale = std::sqrt(double{h.At(i, i)} * h.At(j, j));
        wrong += !(std::abs(sum - h.At(i, j)) <= Tolerance(k, scale));
      }
      wrong += r.At(i, k) != kGuard;
    }
    CHECK(wrong == 0);
    Matrix packed(k, k, 0, 0);
    for (int64_t i = 0; i < k; ++i) {
      std::copy_n(r.data() + i * r.stride, k, packed.data() + i * k);
    }
    const Matrix b = Random(20, k, 0, 0, 62);
    Matrix x = b;
    linalg::SolveUpperInPanels(Threads(2), 20, k, packed.data(), x.data(), panel);
    double error = 0, norm = 0;
    for (int64_t i = 0; i < 20; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        double sum = 0;
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

TEST_CASE("panel matrix: parts that cross panels and the diagonal") {
  const int64_t k = 200;
  const Matrix x = Activations(50, k, 55);
  auto panels = PanelMatrix::CreateInPanels(k, 5 * 64 * 64 * 4, ScratchDir(), 64);
  REQUIRE(panels.ok());
  CHECK(panels->scratch_bytes() > 0);
  // What was never written is zero.
  CHECK(SameBits(ReadAll(*panels), std::vector<float>(static_cast<size_t>(k * k), 0.0f)));
  REQUIRE(panels->AddProduct(Threads(1), x.rows, x.data(), x.stride).ok());
  Matrix h(k, k, 0, 0.0f);
  SyrkUpper(Threads(1), x.rows, k, x.data(), x.stride, h.data(), k);
  struct Part {
    int64_t row, rows, column, columns;
  };
  for (const Part& part : {Part{0, 200, 60, 10},
                           {63, 2, 0, 200},
                           {10, 150, 100, 90},
                           {199, 1, 199, 1},
                           {5, 0, 3, 7},
                           {100, 90, 0, 50}}) {
    CAPTURE(part.row);
    CAPTURE(part.column);
    Matrix out(part.rows, part.columns, 2, kGuard);
    REQUIRE(panels
                ->Read(Threads(2), part.row, part.rows, part.column, part.columns, out.data(),
                       out.stride)
                .ok());
    int64_t wrong = 0;
    for (int64_t i = 0; i < part.rows; ++i) {
      for (int64_t j = 0; j < out.stride; ++j) {
        const float expected = j >= part.columns ? kGuard
                               : part.column + j < part.row + i
                                   ? 0.0f
                                   : h.At(part.row + i, part.column + j);
        wrong += out.At(i, j) != expected;
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("panel matrix: kBf16 gives the bytes of SyrkUpper too") {
  const int64_t k = 150;
  const Matrix x = Activations(90, k, 56);
  Matrix h(k, k, 0, 0.0f);
  SyrkUpper(Threads(1), x.rows, k, x.data(), x.stride, h.data(), k, Precision::kBf16);
  auto panels = PanelMatrix::CreateInPanels(k, 4 * 64 * 64 * 4, ScratchDir(), 64);
  REQUIRE(panels.ok());
  REQUIRE(panels->AddProduct(Threads(2), x.rows, x.data(), x.stride, Precision::kBf16).ok());
  CHECK(SameBits(ReadAll(*panels), h.values));
}

TEST_CASE("panel matrix: what goes wrong") {
  // Too little memory, and how much would do.
  const uint64_t four = 4 * 64 * 64 * 4;
  const auto small = PanelMatrix::CreateInPanels(300, four - 1, ScratchDir(), 64);
  REQUIRE_FALSE(small.ok());
  CHECK(small.error().code == ErrorCode::kMemory);
  CHECK(small.error().message.find(std::to_string(four)) != std::string::npos);
  CHECK(PanelMatrix::CreateInPanels(300, four, ScratchDir(), 64).ok());
  // No folder for the scratch file; not needed when all fits.
  const auto nowhere = PanelMatrix::CreateInPanels(300, four, ScratchDir() + "/not-there", 64);
  REQUIRE_FALSE(nowhere.ok());
  CHECK(nowhere.error().code == ErrorCode::kNotFound);
  CHECK(PanelMatrix::CreateInPanels(300, four * 10, ScratchDir() + "/not-there", 64).ok());

  auto panels = PanelMatrix::CreateInPanels(300, four, ScratchDir(), 64);
  REQUIRE(panels.ok());
  // Zeros are not positive definite.
  const auto factored = panels->Factor(Threads(2));
  REQUIRE(factored.ok());
  CHECK_FALSE(*factored);
  // A cancelled run stops, and says so.
  std::atomic<bool> cancel{true};
  Context context = Threads(2);
  context.cancel = &cancel;
  REQUIRE(panels->ScaleAndAdd(Threads(1), 0.0f, 1.0f).ok());
  const auto stopped = panels->Factor(context);
  REQUIRE_FALSE(stopped.ok());
  CHECK(stopped.error().code == ErrorCode::kInterrupted);
  cancel = false;
  const auto again = panels->Factor(context);
  REQUIRE(again.ok());
  CHECK(*again);
}

}  // namespace
}  // namespace pennyweight
