#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "lib/linalg.h"
#include "quant/codec.h"
#include "quant/gptq_order.h"
#include "quant/gptq_plan.h"
#include "quant/method.h"
#include "tests/quant/matrices.h"

namespace pennyweight {
namespace {

// H damped by one percent of its mean diagonal, its factor, and its diagonal.
struct Problem {
  int64_t k;
  std::vector<double> h;       // undamped
  std::vector<double> damped;  // what is factored
  std::vector<float> r;
  std::vector<float> diagonal;

  HessianFactor factor() const { return {{k, r.data()}, diagonal}; }
};

Problem MakeProblem(int64_t k, uint32_t seed) {
  Problem p{k, Hessian(RandomActivations(4 * k, k, seed), 4 * k, k), {}, {}, {}};
  p.damped = p.h;
  double mean = 0;
  for (int64_t i = 0; i < k; ++i) mean += p.h[static_cast<size_t>(i * k + i)];
  for (int64_t i = 0; i < k; ++i) {
    const auto at = static_cast<size_t>(i * k + i);
    p.damped[at] += 0.01 * mean / static_cast<double>(k);
    p.diagonal.push_back(static_cast<float>(p.h[at]));
  }
  p.r.assign(p.damped.begin(), p.damped.end());
  REQUIRE(FactorUpper({}, k, p.r.data(), k));
  return p;
}

std::vector<float> Gptq(const Encoding& encoding, const Problem& p, const std::vector<float>& w,
                        int64_t rows, int threads = 1) {
  Context context;
  context.threads = threads;
  EncodedTensor out;
  REQUIRE(QuantizeGptq(context, encoding, p.factor(), w.data(), rows, p.k, &out).ok());
  std::vector<float> v(w.size());
  DecodeRows(out, 0, rows, v.data());
  return v;
}

std::vector<float> Rtn(const Encoding& encoding, const Problem& p, const std::vector<float>& w,
                       int64_t rows) {
  EncodedTensor out;
  REQUIRE(
      QuantizeRtn({}, encoding, w.data(), rows, p.k, p.diagonal, ScaleSearch::kSearch, &out).ok());
  std::vector<float> v(w.size());
  DecodeRows(out, 0, rows, v.data());
  return v;
}

// Inverse of a symmetric positive definite matrix by Gauss-Jordan elimination.
std::vector<double> Inverse(std::vector<double> a, int64_t n) {
  std::vector<double> inv(a.size());
  const auto at = [n](int64_t i, int64_t j) { return static_cast<size_t>(i * n + j); };
  for (int64_t i = 0; i < n; ++i) inv[at(i, i)] = 1;
  for (int64_t p = 0; p < n; ++p) {
    const double pivot = 1 / a[at(p, p)];
    for (int64_t j = 0; j < n; ++j) {
      a[at(p, j)] *= pivot;
      inv[at(p, j)] *= pivot;
    }
    for (int64_t i = 0; i < n; ++i) {
      if (i == p) continue;
      const double f = a[at(i, p)];
      for (int64_t j = 0; j < n; ++j) {
        a[at(i, j)] -= f * a[at(p, j)];
        inv[at(i, j)] -= f * inv[at(p, j)];
      }
    }
  }
  return inv;
}

// Explicit optimal brain quantization of one row with a fixed scale: after each column the inverse
// Hessian of the columns that remain is found by elimination, and they take the optimal update.
std::vector<float> ObqRow(const float* w, float scale, const std::vector<double>& h, int64_t n) {
  std::vector<double> rest(w, w + n);
  std::vector<double> inv = Inverse(h, n);
  std::vector<float> q(static_cast<size_t>(n));
  for (int64_t c = 0; c < n; ++c) {
    const auto cc = static_cast<size_t>(c * n + c);
    const double v = rest[static_cast<size_t>(c)];
    const double code = std::min(7.0, std::max(-8.0, std::nearbyint(v / scale)));
    q[static_cast<size_t>(c)] = static_cast<float>(code) * scale;
    const double step = (v - code * scale) / inv[cc];
    for (int64_t j = c; j < n; ++j) {
      rest[static_cast<size_t>(j)] -= step * inv[static_cast<size_t>(c * n + j)];
    }
    const double pivot = inv[cc];
    const std::vector<double> before = inv;
    for (int64_t i = c + 1; i < n; ++i) {
      for (int64_t j = c + 1; j < n; ++j) {
        inv[static_cast<size_t>(i * n + j)] -=
            before[static_cast<size_t>(i * n + c)] * before[static_cast<size_t>(c * n + j)] / pivot;
      }
    }
  }
  return q;
}

TEST_CASE("codes are those of explicit optimal brain quantization in double precision") {
  // One scale per row; the reference gets the scale that was stored, and the columns in the order
  // of gptq, and must choose the same codes. 300 columns are a block longer than a panel; 44 one
  // that is not. kFast: no sweeps follow.
  for (const int64_t k : {44, 300}) {
    CAPTURE(k);
    const int64_t rows = 6;
    const Problem p = MakeProblem(k, 9);
    const std::vector<float> w = RandomWeights(rows * k, 10);
    const Encoding encoding = Encoding::Integer(Ints(4, 0, true, DType::kF32));
    const auto plan = GptqPlan::Make({}, encoding, p.factor(), Effort::kFast);
    REQUIRE(plan.ok());
    const std::vector<int32_t>& order = (*plan)->order();
    EncodedTensor out;
    REQUIRE(QuantizeGptq({}, **plan, w.data(), rows, &out).ok());
    std::vector<float> v(w.size());
    DecodeRows(out, 0, rows, v.data());
    std::vector<double> damped(p.damped.size());
    const auto at = [k](int64_t i, int64_t j) { return static_cast<size_t>(i * k + j); };
    const auto from = [&](int64_t j) { return int64_t{order[static_cast<size_t>(j)]}; };
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < k; ++j) damped[at(i, j)] = p.damped[at(from(i), from(j))];
    }
    int differ = 0;
    for (int64_t r = 0; r < rows; ++r) {
      float scale = 0;
      DecodeToFloat(DType::kF32, out.scales.data() + r * 4, &scale, 1);
      std::vector<float> row;
      for (int64_t c = 0; c < k; ++c) row.push_back(w[at(r, from(c))]);
      const std::vector<float> want = ObqRow(row.data(), scale, damped, k);
      for (int64_t c = 0; c < k; ++c) {
        differ +=
            std::abs(v[at(r, from(c))] - want[static_cast<size_t>(c)]) > 0.01f * std::abs(scale);
      }
    }
    // fp32 ties may flip a code, and what follows it in that row.
    CHECK(differ <= rows * k / 100);
  }
}

TEST_CASE("columns change places within blocks and panels, and the factor with them") {
  const int64_t k = 768;
  const Problem p = MakeProblem(k, 21);
  for (const Encoding& encoding :
       {Encoding::Block(BlockType::kQ4_K), Encoding::Block(BlockType::kQ2_K),
        Encoding::Block(BlockType::kIQ2_S), Encoding::Integer(Ints(4, 96, true, DType::kF16)),
        Encoding::Integer(Ints(4, 0, true, DType::kF16))}) {
    CAPTURE(encoding.Name());
    const auto grid = MakeGrid(encoding, k);
    REQUIRE(grid != nullptr);
    const int64_t panel = GptqPanel(*grid);
    const std::vector<int32_t> order = GptqOrder(p.diagonal, *grid);
    std::vector<int32_t> sorted = order;
    std::sort(sorted.begin(), sorted.end());
    for (int32_t j = 0; j < k; ++j) REQUIRE(sorted[static_cast<size_t>(j)] == j);
    CHECK(sorted != order);
    for (int64_t j = 0; j < k; ++j) {
      const int64_t c = order[static_cast<size_t>(j)];
      CHECK(c / panel == j / panel);
      CHECK(c % grid->unit() == j % grid->unit());
      for (const int64_t run : {grid->unit(), grid->sub_block(), grid->block()}) {
        CHECK(c / run == order[static_cast<size_t>(j / run * run)] / run);
      }
    }
    // The largest column of a panel is in its first block's first unit.
    const auto largest = std::max_element(p.diagonal.begin(), p.diagonal.begin() + panel);
    const auto unit = static_cast<size_t>(grid->unit());
    CHECK(std::count(order.begin(), order.begin() + static_cast<int64_t>(unit),
                     largest - p.diagonal.begin()) == 1);

    const std::vector<float> r = ReorderFactor({}, p.r.data(), order, panel);
    double worst = 0;
    for (int64_t i = 0; i < k; ++i) {
      CHECK(r[static_cast<size_t>(i * k + i)] > 0);
      for (int64_t j = i; j < k; j += 7) {
        double sum = 0;
        for (int64_t c = j; c < k; ++c) {
          sum += static_cast<double>(r[static_cast<size_t>(i * k + c)]) *
                 r[static_cast<size_t>(j * k + c)];
        }
        const auto ci = static_cast<size_t>(order[static_cast<size_t>(i)]);
        const auto cj = static_cast<size_t>(order[static_cast<size_t>(j)]);
        const double want = p.damped[ci * static_cast<size_t>(k) + cj];
        const double size = std::sqrt(p.damped[ci * static_cast<size_t>(k + 1)] *
                                      p.damped[cj * static_cast<size_t>(k + 1)]);
        worst = std::max(worst, std::abs(sum - want) / size);
        if (j > i) CHECK(r[static_cast<size_t>(j * k + i)] == 0);
      }
    }
    CHECK(worst < 2e-5);
  }
}

// Of each row, e H e^T with the damped H, in double.
std::vector<double> RowLosses(const Problem& p, const std::vector<float>& w,
                              const std::vector<float>& v, int64_t rows) {
  std::vector<double> losses;
  for (int64_t r = 0; r < rows; ++r) {
    const auto row = [&](const std::vector<float>& m) {
      return std::vector<float>(m.begin() + r * p.k, m.begin() + (r + 1) * p.k);
    };
    losses.push_back(OutputError(row(w), row(v), p.damped, 1, p.k));
  }
  return losses;
}

TEST_CASE("no sweep raises the loss of a row, and the first ones lower it") {
  const int64_t rows = 20, k = 512;
  const Problem p = MakeProblem(k, 31);
  const std::vector<float> w = RandomWeights(rows * k, 32);
  for (const GridCase& c : GridCases()) {
    CAPTURE(c.encoding.Name());
    std::vector<double> before;
    double first = 0, last = 0;
    for (const int sweeps : {0, 1, 3}) {
      const auto plan = GptqPlan::Make({}, c.encoding, p.factor(), Effort::kNormal, sweeps);
      REQUIRE(plan.ok());
      EncodedTensor out;
      REQUIRE(QuantizeGptq({}, **plan, w.data(), rows, &out).ok());
      std::vector<float> v(w.size());
      DecodeRows(out, 0, rows, v.data());
      const std::vector<double> losses = RowLosses(p, w, v, rows);
      last = 0;
      for (size_t r = 0; r < losses.size(); ++r) {
        last += losses[r];
        if (!before.empty()) CHECK(losses[r] <= before[r] * (1 + 1e-5));
      }
      if (sweeps == 0) first = last;
      before = losses;
    }
    CHECK(last < 0.995 * first);
    CHECK(last > 0.25 * first);
  }
}

TEST_CASE("output error is clearly below rtn's for every type, also held out") {
  const int64_t rows = 20, k = 512;
  const Problem p = MakeProblem(k, 1);
  const std::vector<double> held_out = Hessian(RandomActivations(k, k, 2), k, k);
  const std::vector<float> w = RandomWeights(rows * k, 3);
  for (const GridCase& c : GridCases()) {
    CAPTURE(c.encoding.Name());
    const std::vector<float> gptq = Gptq(c.encoding, p, w, rows);
    const std::vector<float> rtn = Rtn(c.encoding, p, w, rows);
    const double ratio = OutputError(w, gptq, p.h, rows, k) / OutputError(w, rtn, p.h, rows, k);
    const double held =
        OutputError(w, gptq, held_out, rows, k) / OutputError(w, rtn, held_out, rows, k);
    CHECK(ratio < 0.7);
    CHECK(ratio > 0.02);
    CHECK(held < 0.8);
  }
}

TEST_CASE("rows do not depend on row blocks or threads") {
  const int64_t rows = 131, k = 512;
  const Problem p = MakeProblem(k, 4);
  const std::vector<float> w = RandomWeights(rows * k, 5);
  for (const Encoding& encoding :
       {Encoding::Block(BlockType::kQ4_K), Encoding::Block(BlockType::kQ4_0),
        Encoding::Integer(Ints(4, 0, true, DType::kF16))}) {
    CAPTURE(encoding.Name());
    const std::vector<float> whole = Gptq(encoding, p, w, rows);
    CHECK(whole == Gptq(encoding, p, w, rows, 4));
    for (const int64_t first : {1, 63, 64, 100}) {
      const std::vector<float> part(w.begin() + first * k, w.end());
      const std::vector<float> tail = Gptq(encoding, p, part, rows - first);
      CHECK(std::equal(tail.begin(), tail.end(), whole.begin() + first * k));
    }
  }
}

TEST_CASE("ragged rows, uncorrelated inputs and non-finite weights") {
  const int64_t rows = 7, k = 172;
  const Problem p = MakeProblem(k, 6);
  std::vector<float> w = RandomWeights(rows * k, 7);
  const Encoding encoding = Encoding::Integer(Ints(4, 0, false, DType::kF16));
  const double ratio = OutputError(w, Gptq(encoding, p, w, rows), p.h, rows, k) /
                       OutputError(w, Rtn(encoding, p, w, rows), p.h, rows, k);
  CHECK(ratio < 0.7);

  // With a diagonal Hessian there is nothing to feed back: gptq is rtn weighted by the diagonal.
  Problem diagonal = p;
  diagonal.r.assign(static_cast<size_t>(k * k), 0.0f);
  for (int64_t i = 0; i < k; ++i) {
    diagonal.r[static_cast<size_t>(i * k + i)] = 2.0f;
    diagonal.diagonal[static_cast<size_t>(i)] = 4.0f;
  }
  CHECK(Gptq(encoding, diagonal, w, rows) == Rtn(encoding, diagonal, w, rows));

  w[static_cast<size_t>(5 * k + 171)] = std::numeric_limits<float>::infinity();
  EncodedTensor out;
  const Status status = QuantizeGptq({}, encoding, p.factor(), w.data(), rows, k, &out);
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().code == ErrorCode::kNonFinite);
  CHECK(status.error().message.find("row 5, column 171") != std::string::npos);

  const Status refused =
      QuantizeGptq({}, Encoding::Block(BlockType::kQ4_K), p.factor(), w.data(), rows, k, &out);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.error().code == ErrorCode::kUnsupported);
}

TEST_CASE("gptq takes a factor in panels: the same codes, whatever lies in the scratch file") {
  const int64_t rows = 40, k = 640, panel = 96;
  const std::vector<float> x = RandomActivations(2 * k, k, 31);
  std::vector<float> h(static_cast<size_t>(k * k));
  Context context;
  context.threads = 2;
  // By the panels of a product and a factor of one array, so that R has the same bytes.
  const auto fill = [&](PanelMatrix* panels) {
    REQUIRE(panels->AddProduct(context, 2 * k, x.data(), k).ok());
    REQUIRE(panels->ScaleAndAdd(context, 1.0f / static_cast<float>(2 * k), 0.05f).ok());
    const auto factored = panels->Factor(context);
    REQUIRE(factored.ok());
    REQUIRE(*factored);
  };
  auto all = PanelMatrix::CreateInPanels(k, uint64_t{1} << 30, "/tmp", panel);
  auto few =
      PanelMatrix::CreateInPanels(k, uint64_t{5} * panel * panel * sizeof(float), "/tmp", panel);
  REQUIRE(all.ok());
  REQUIRE(few.ok());
  REQUIRE(all->scratch_bytes() == 0);
  REQUIRE(few->scratch_bytes() > 0);
  fill(&*all);
  fill(&*few);
  REQUIRE(all->Read(context, 0, k, 0, k, h.data(), k).ok());
  const std::vector<float> w = RandomWeights(rows * k, 32);
  // Short blocks, blocks longer than gptq's panel, and rows that are one block.
  for (const auto& encoding : {Encoding::Integer(Ints(4, 32, false, DType::kF16)),
                               Encoding::Integer(Ints(4, 320, true, DType::kF16)),
                               Encoding::Integer(Ints(8, 0, true, DType::kF32))}) {
    CAPTURE(encoding.Name());
    EncodedTensor want, resident, spilled;
    // Without importance columns keep their order, as those of panels do.
    REQUIRE(QuantizeGptq(context, encoding, {{k, h.data()}, {}}, w.data(), rows, k, &want).ok());
    REQUIRE(
        QuantizeGptq(context, encoding, {FactorView(*all), {}}, w.data(), rows, k, &resident).ok());
    REQUIRE(
        QuantizeGptq(context, encoding, {FactorView(*few), {}}, w.data(), rows, k, &spilled).ok());
    CHECK(resident.codes == want.codes);
    CHECK(resident.scales == want.scales);
    CHECK(spilled.codes == want.codes);
    CHECK(spilled.scales == want.scales);
    CHECK(spilled.zeros == want.zeros);
  }
}

}  // namespace
}  // namespace pennyweight
