#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "hwy/targets.h"
#include "lib/linalg.h"
#include "quant/codec.h"
#include "quant/element_kernels.h"
#include "quant/gptq_plan.h"
#include "quant/grid.h"
#include "quant/method.h"
#include "tests/quant/matrices.h"
#include "tests/quant/scalar_grids.h"

namespace pennyweight {
namespace {

Encoding Fp8(DType element, int64_t block_cols, DType scale) {
  ScaledSpec spec;
  spec.element = element;
  spec.block_rows = 1;
  spec.block_cols = block_cols;
  spec.scale_dtype = scale;
  return Encoding::Scaled(spec);
}
Encoding Book(CodebookSpec::Book book, int64_t block) {
  CodebookSpec spec;
  spec.book = book;
  spec.block = block;
  return Encoding::Codebook(spec);
}

std::vector<Encoding> Cases() {
  return {Book(CodebookSpec::Book::kNf4, 64), Book(CodebookSpec::Book::kFp4, 128),
          Fp8(DType::kF8E4M3, 0, DType::kF32), Fp8(DType::kF8E4M3, 64, DType::kBF16),
          Fp8(DType::kF8E5M2, 0, DType::kF16)};
}

TEST_CASE("element grids choose what the encoders of rtn choose for the same scale") {
  const int64_t rows = 16, cols = 256;
  for (const Encoding& encoding : Cases()) {
    CAPTURE(encoding.Name());
    std::vector<float> w = RandomWeights(rows * cols, 5);
    std::fill(w.begin() + 3 * cols, w.begin() + 4 * cols, 0.0f);
    for (int64_t c = 0; c < cols; ++c) w[static_cast<size_t>(5 * cols + c)] *= 1e-12f;
    EncodedTensor want;
    REQUIRE(QuantizeRtn({}, encoding, w.data(), rows, cols, {}, ScaleSearch::kMinMax, &want).ok());
    const auto grid = MakeGrid(encoding, cols);
    REQUIRE(grid != nullptr);
    EncodedTensor out = EncodedTensor::Allocate(encoding, rows, cols);
    out.levels = want.levels;
    LaneArray<float> lanes(cols * kLanes), values(cols * kLanes);
    LoadLanes(w.data(), cols, rows, cols, lanes.data());
    std::vector<uint8_t> packed(static_cast<size_t>(grid->packed_bytes() * kLanes));
    const std::vector<float> ones(static_cast<size_t>(cols), 1.0f);
    for (int64_t c = 0; c < cols; c += grid->block()) {
      grid->BeginBlock(lanes.data() + c * kLanes, ones.data(), ScaleSearch::kMinMax);
      for (int64_t i = 0; i < grid->block(); ++i) {
        const int64_t at = (c + i) * kLanes;
        grid->Round(i, lanes.data() + at, nullptr, 0, values.data() + at);
      }
      grid->Pack(packed.data());
      StorePackedLanes(packed.data(), grid->packed_bytes(), 0, rows, c / grid->block(), &out);
    }
    CHECK(out.scales == want.scales);
    std::vector<float> a(w.size()), b(w.size()), seen(w.size());
    DecodeRows(want, 0, rows, a.data());
    DecodeRows(out, 0, rows, b.data());
    StoreLanes(values.data(), rows, cols, seen.data(), cols);
    CHECK(seen == b);
    // Only where two elements are equally near may they differ.
    for (size_t i = 0; i < w.size(); ++i) {
      CHECK(std::abs(w[i] - b[i]) <= std::abs(w[i] - a[i]) * (1 + 1e-5f) + 1e-30f);
    }
  }
}

TEST_CASE("element grids give the same bytes on every instruction set and in scalar code") {
  const int64_t cols = 256;
  std::vector<float> w = RandomWeights(cols * kLanes, 9), h;
  for (int64_t i = 0; i < cols; ++i) h.push_back(0.2f + 0.01f * static_cast<float>(i * 37 % 160));
  for (size_t i = 0; i < w.size(); i += kLanes) w[i + 2] = 0;
  for (size_t i = 0; i < w.size(); i += kLanes) w[i + 4] *= 1e30f;
  LaneArray<float> lanes(cols * kLanes);
  std::copy(w.begin(), w.end(), lanes.data());
  for (const Encoding& encoding : Cases()) {
    CAPTURE(encoding.Name());
    for (const ScaleSearch search : {ScaleSearch::kMinMax, ScaleSearch::kSearch}) {
      const auto scalar = MakeScalarGrid(encoding, cols, Effort::kNormal);
      REQUIRE(scalar != nullptr);
      std::vector<uint8_t> want(static_cast<size_t>(scalar->packed_bytes() * kLanes));
      scalar->Encode(lanes.data(), h.data(), search, want.data());
      for (int64_t targets = hwy::SupportedTargets(); targets != 0; targets &= targets - 1) {
        hwy::SetSupportedTargetsForTest(targets & -targets);
        hwy::GetChosenTarget().Update(targets & -targets);
        CAPTURE(hwy::TargetName(targets & -targets));
        const auto grid = MakeGrid(encoding, cols);
        std::vector<uint8_t> got(want.size());
        grid->Encode(lanes.data(), h.data(), search, got.data());
        CHECK(got == want);
      }
      hwy::SetSupportedTargetsForTest(0);
      hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    }
  }
}

TEST_CASE("gptq lowers the output error of element types, and sweeps lower it further") {
  const int64_t rows = 20, k = 256;
  const std::vector<double> h = Hessian(RandomActivations(4 * k, k, 1), 4 * k, k);
  double mean = 0;
  for (int64_t i = 0; i < k; ++i) mean += h[static_cast<size_t>(i * (k + 1))] / k;
  std::vector<float> r(h.begin(), h.end()), diagonal;
  for (int64_t i = 0; i < k; ++i) {
    r[static_cast<size_t>(i * (k + 1))] += static_cast<float>(0.01 * mean);
    diagonal.push_back(static_cast<float>(h[static_cast<size_t>(i * (k + 1))]));
  }
  REQUIRE(FactorUpper({}, k, r.data(), k));
  const HessianFactor factor{{k, r.data()}, diagonal};
  const std::vector<float> w = RandomWeights(rows * k, 3);
  for (const Encoding& encoding : Cases()) {
    CAPTURE(encoding.Name());
    EncodedTensor out;
    std::vector<float> v(w.size());
    REQUIRE(
        QuantizeRtn({}, encoding, w.data(), rows, k, diagonal, ScaleSearch::kSearch, &out).ok());
    DecodeRows(out, 0, rows, v.data());
    double last = OutputError(w, v, h, rows, k) * 0.8;
    for (const int sweeps : {0, 2}) {
      const auto plan = GptqPlan::Make({}, encoding, factor, Effort::kNormal, sweeps);
      REQUIRE(plan.ok());
      REQUIRE(QuantizeGptq({}, **plan, w.data(), rows, &out).ok());
      DecodeRows(out, 0, rows, v.data());
      const double error = OutputError(w, v, h, rows, k);
      CHECK(error < last);
      CHECK(error > 0.02 * last);
      last = error;
    }
  }
}

TEST_CASE("element grids: what spans rows, is nested or does not divide has none") {
  const Encoding nf4 = Book(CodebookSpec::Book::kNf4, 64);
  CHECK(MakeGrid(nf4, 256) != nullptr);
  CHECK(MakeGrid(nf4, 96) == nullptr);
  CHECK(MakeGrid(Book(CodebookSpec::Book::kNf4, 0), 96) == nullptr);
  Encoding nested = nf4;
  nested.codebook.nested_block = 256;
  CHECK(MakeGrid(nested, 256) == nullptr);
  Encoding fp8 = Fp8(DType::kF8E4M3, 0, DType::kF32);
  CHECK(MakeGrid(fp8, 172) != nullptr);
  fp8.scaled.block_cols = 128;
  CHECK(MakeGrid(fp8, 172) == nullptr);
  fp8.scaled.block_cols = 0;
  for (const int64_t block_rows : {0, 128}) {
    fp8.scaled.block_rows = block_rows;
    CHECK(MakeGrid(fp8, 256) == nullptr);
  }
}

}  // namespace
}  // namespace pennyweight
