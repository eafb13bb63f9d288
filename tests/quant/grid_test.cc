#include "quant/grid.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quant/codec.h"
#include "tests/quant/matrices.h"
#include "tests/quant/one_row.h"

namespace pennyweight {
namespace {

int64_t Columns(const Encoding& encoding) {
  const auto grid = MakeRow(encoding, 256);
  return grid->block() * 2 > 256 ? 256 : grid->block() * 2;
}

// One row through a grid; values as Round returned them.
std::vector<float> CodeRow(OneRow* grid, const std::vector<float>& w, ScaleSearch search,
                           const std::vector<float>& importance, EncodedTensor* out) {
  std::vector<float> values;
  const int64_t width = grid->block();
  for (int64_t b = 0; b * width < static_cast<int64_t>(w.size()); ++b) {
    const auto at = static_cast<size_t>(b * width), n = static_cast<size_t>(width);
    const std::span<const float> h(importance);
    grid->BeginBlock({w.data() + at, n}, h.empty() ? h : h.subspan(at, n), search);
    for (int64_t i = 0; i < width; i += grid->unit()) {
      const auto unit = static_cast<size_t>(grid->unit());
      for (const float v : grid->Round(i, {w.data() + at + static_cast<size_t>(i), unit})) {
        values.push_back(v);
      }
    }
    grid->Pack(out, 0, b);
  }
  return values;
}

double WeightedError(const std::vector<float>& w, const std::vector<float>& v,
                     const std::vector<float>& h) {
  double sum = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    const double e = static_cast<double>(w[i]) - v[i];
    sum += (h.empty() ? 1.0 : h[i]) * e * e;
  }
  return sum;
}

TEST_CASE("Round returns what a reader of the packed bytes sees, bit for bit") {
  for (const GridCase& c : GridCases()) {
    CAPTURE(c.encoding.Name());
    const int64_t cols = Columns(c.encoding);
    const auto grid = MakeRow(c.encoding, cols);
    for (const float size : {0.05f, 1e-6f, 1e-30f, 3000.0f, 1e30f}) {
      CAPTURE(size);
      for (const ScaleSearch search : {ScaleSearch::kMinMax, ScaleSearch::kSearch}) {
        const std::vector<float> w = RandomWeights(cols, 11, size);
        EncodedTensor out = EncodedTensor::Allocate(c.encoding, 1, cols);
        const std::vector<float> seen = CodeRow(grid.get(), w, search, {}, &out);
        std::vector<float> decoded(w.size());
        DecodeRows(out, 0, 1, decoded.data());
        for (size_t i = 0; i < w.size(); ++i) {
          REQUIRE(decoded[i] == seen[i]);
          REQUIRE(std::isfinite(decoded[i]));
        }
      }
    }
  }
}

TEST_CASE("the search beats min/max, weighted or not, and each code is the nearest") {
  for (const GridCase& c : GridCases()) {
    CAPTURE(c.encoding.Name());
    const int64_t cols = Columns(c.encoding);
    const auto grid = MakeRow(c.encoding, cols);
    double plain[2] = {}, weighted[2] = {};
    for (uint32_t seed = 0; seed < 12; ++seed) {
      const std::vector<float> w = RandomWeights(cols, seed);
      std::vector<float> h = RandomWeights(cols, seed + 100, 1);
      for (float& v : h) v = v * v + 0.01f;
      EncodedTensor out = EncodedTensor::Allocate(c.encoding, 1, cols);
      for (int s = 0; s < 2; ++s) {
        const ScaleSearch search = s == 0 ? ScaleSearch::kMinMax : ScaleSearch::kSearch;
        plain[s] += WeightedError(w, CodeRow(grid.get(), w, search, {}, &out), {});
        weighted[s] += WeightedError(w, CodeRow(grid.get(), w, search, h, &out), h);
        // Rounding a decoded value again must not move it: it is on the grid of the last block.
        const int64_t last = cols - grid->block();
        for (int64_t i = 0; i < grid->block(); i += grid->unit()) {
          const auto unit = static_cast<size_t>(grid->unit());
          const auto v = grid->Round(i, {w.data() + last + i, unit});
          REQUIRE(grid->Round(i, v) == v);
        }
      }
    }
    CHECK(plain[1] <= (c.coarse ? 1.0 : 0.99) * plain[0]);
    CHECK(weighted[1] < 0.99 * weighted[0]);
  }
}

TEST_CASE("the symmetric search comes within parts of a thousand of an exhaustive one") {
  const Encoding encoding = Encoding::Block(BlockType::kQ4_0);
  OneRow quick(MakeGrid(encoding, 32)), longest(MakeGrid(encoding, 32, Effort::kBest));
  double ours = 0, with_effort = 0, best_of_all = 0;
  for (uint32_t seed = 0; seed < 120; ++seed) {
    const std::vector<float> w = RandomWeights(32, seed);
    EncodedTensor out = EncodedTensor::Allocate(encoding, 1, 32);
    ours += WeightedError(w, CodeRow(&quick, w, ScaleSearch::kSearch, {}, &out), {});
    with_effort += WeightedError(w, CodeRow(&longest, w, ScaleSearch::kSearch, {}, &out), {});
    double best = 1e30;
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {  // every fp16 scale
      const float scale = F16ToF32(static_cast<uint16_t>(bits));
      if (!std::isfinite(scale) || std::abs(scale) < 1e-4f || std::abs(scale) > 0.2f) continue;
      double error = 0;
      for (const float v : w) {
        const float e = v - scale * std::clamp(std::nearbyint(v / scale), -8.0f, 7.0f);
        error += static_cast<double>(e) * e;
      }
      best = std::min(best, error);
    }
    best_of_all += best;
  }
  CHECK(ours <= 1.005 * best_of_all);
  CHECK(with_effort <= 1.001 * best_of_all);
  CHECK(with_effort >= 0.9999 * best_of_all);
  CHECK(ours >= 0.9999 * best_of_all);
}

TEST_CASE("the search of eight bits comes within parts of a hundred of an exhaustive one") {
  const Encoding encoding = Encoding::Block(BlockType::kQ8_0);
  OneRow quick(MakeGrid(encoding, 32)), longest(MakeGrid(encoding, 32, Effort::kBest));
  double ours = 0, with_effort = 0, best_of_all = 0;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    const std::vector<float> w = RandomWeights(32, seed);
    std::vector<float> h = RandomWeights(32, seed + 500, 1), used(h.size());
    for (float& v : h) v = v * v + 0.05f;
    NormalizeImportance(h, 32, used.data());
    EncodedTensor out = EncodedTensor::Allocate(encoding, 1, 32);
    ours += WeightedError(w, CodeRow(&quick, w, ScaleSearch::kSearch, h, &out), used);
    with_effort += WeightedError(w, CodeRow(&longest, w, ScaleSearch::kSearch, h, &out), used);
    float top = 0;
    for (const float v : w) top = std::max(top, std::abs(v));
    double best = 1e30;
    for (uint32_t bits = 1; bits < 0x7C00; ++bits) {  // every fp16 scale within reach
      const float scale = F16ToF32(static_cast<uint16_t>(bits));
      if (scale * 127 < 0.7f * top || scale * 127 > 1.3f * top) continue;
      double error = 0;
      for (size_t i = 0; i < w.size(); ++i) {
        const double q = std::clamp(std::nearbyint(w[i] / scale), -127.0f, 127.0f);
        error += used[i] * (w[i] - scale * q) * (w[i] - scale * q);
      }
      best = std::min(best, error);
    }
    best_of_all += best;
  }
  CHECK(ours <= 1.05 * best_of_all);
  CHECK(with_effort <= 1.02 * best_of_all);
  CHECK(with_effort >= 0.9999 * best_of_all);
}

// The least error of a row over scales (and zero points) of either sign in steps of a percent.
double WalkedError(const std::vector<float>& w, const std::vector<float>& h, const Encoding& e) {
  const auto half = static_cast<float>(1 << (e.integer.bits - 1));
  const float top = std::abs(*std::max_element(
      w.begin(), w.end(), [](float a, float b) { return std::abs(a) < std::abs(b); }));
  double best = 1e30;
  for (float scale = 2 * top / half; scale > 0.1f * top / half; scale *= 0.99f) {
    for (float zero = -half; zero < half; ++zero) {
      if (e.integer.symmetric && zero != 0) continue;
      for (const float s : {scale, -scale}) {
        if (!e.integer.symmetric && s < 0) continue;  // a mirrored zero point does the same
        double error = 0;
        for (size_t i = 0; i < w.size() && error < best; ++i) {
          const float q = std::clamp(std::nearbyint(w[i] / s), -half - zero, half - 1 - zero);
          const double miss = static_cast<double>(w[i]) - s * q;
          error += h[i] * miss * miss;
        }
        best = std::min(best, error);
      }
    }
  }
  return best;
}

TEST_CASE("integers of any length come near a walk over all scales and zero points") {
  struct Case {
    int bits;
    int64_t cols;
    bool symmetric;
    double outlier, near;
  };
  // Long rows have outliers that are best clipped.
  for (const Case& c :
       {Case{2, 64, true, 1, 1.02}, Case{3, 128, true, 1, 1.02}, Case{4, 128, true, 1, 1.02},
        Case{4, 128, true, 2.5, 1.02}, Case{4, 1500, true, 3, 1.01}, Case{8, 128, true, 1, 1.08},
        Case{8, 1500, true, 1, 1.04}, Case{2, 64, false, 1, 1.03}, Case{4, 64, false, 1, 1.03},
        Case{4, 700, false, 2, 1.02}, Case{3, 600, false, 3, 1.02}}) {
    CAPTURE(c.bits);
    CAPTURE(c.cols);
    CAPTURE(c.symmetric);
    const Encoding encoding = Encoding::Integer(Ints(c.bits, 0, c.symmetric, DType::kF16));
    const auto grid = MakeRow(encoding, c.cols);
    double ours = 0, walked = 0;
    for (uint32_t seed = 0; seed < 4; ++seed) {
      std::vector<float> w = RandomWeights(c.cols, seed + 300);
      w[11] *= static_cast<float>(c.outlier) * 2;
      std::vector<float> h = RandomWeights(c.cols, seed + 400, 1), used(h.size());
      for (float& v : h) v = v * v + 0.2f;
      NormalizeImportance(h, c.cols, used.data());
      EncodedTensor out = EncodedTensor::Allocate(encoding, 1, c.cols);
      ours += WeightedError(w, CodeRow(grid.get(), w, ScaleSearch::kSearch, h, &out), used);
      walked += WalkedError(w, used, encoding);
    }
    CHECK(ours < c.near * walked);
    CHECK(ours > 0.9 * walked);
  }
}

TEST_CASE("a group may be the longest row there is") {
  const int64_t cols = 28672;
  for (const bool symmetric : {true, false}) {
    const Encoding encoding = Encoding::Integer(Ints(4, 0, symmetric, DType::kBF16));
    const auto grid = MakeRow(encoding, cols);
    const std::vector<float> w = RandomWeights(cols, 17);
    EncodedTensor out = EncodedTensor::Allocate(encoding, 1, cols);
    const std::vector<float> seen = CodeRow(grid.get(), w, ScaleSearch::kSearch, {}, &out);
    std::vector<float> decoded(w.size());
    DecodeRows(out, 0, 1, decoded.data());
    CHECK(decoded == seen);
    const double error = WeightedError(w, seen, {});
    if (symmetric) CHECK(error < 1.01 * WalkedError(w, std::vector<float>(w.size(), 1), encoding));
    CHECK(error < 0.05 * WeightedError(w, std::vector<float>(w.size()), {}));
  }
}

TEST_CASE("Encode writes what BeginBlock, Round and Pack write") {
  for (const GridCase& c : GridCases()) {
    CAPTURE(c.encoding.Name());
    const auto grid = MakeGrid(c.encoding, 256);
    const int64_t width = grid->block(), unit = grid->unit();
    const auto bytes = static_cast<size_t>(grid->packed_bytes() * kLanes);
    for (const float size : {0.05f, 1e-30f, 1e30f}) {
      const std::vector<float> rows = RandomWeights(kLanes * width, 77, size);
      LaneArray<float> w(kLanes * width);
      LoadLanes(rows.data(), width, kLanes, width, w.data());
      std::vector<float> importance = RandomWeights(width, 78, 1), h(importance.size());
      for (float& v : importance) v *= v;
      NormalizeImportance(importance, width, h.data());
      for (const ScaleSearch search : {ScaleSearch::kMinMax, ScaleSearch::kSearch}) {
        std::vector<uint8_t> at_once(bytes), by_column(bytes);
        grid->Encode(w.data(), h.data(), search, at_once.data());
        grid->BeginBlock(w.data(), h.data(), search);
        alignas(kLaneAlign) float decoded[8 * kLanes];
        for (int64_t i = 0; i < width; i += unit) {
          grid->Round(i, w.data() + i * kLanes, nullptr, 0, decoded);
        }
        grid->Pack(by_column.data());
        CHECK(at_once == by_column);
      }
    }
  }
}

TEST_CASE("min/max of the plain types is the formats' reference choice") {
  const std::vector<float> w = RandomWeights(32, 3);
  const float top = *std::max_element(w.begin(), w.end(),
                                      [](float a, float b) { return std::abs(a) < std::abs(b); });
  EncodedTensor out = EncodedTensor::Allocate(Encoding::Block(BlockType::kQ4_0), 1, 32);
  CodeRow(MakeRow(out.encoding, 32).get(), w, ScaleSearch::kMinMax, {}, &out);
  const uint16_t d = static_cast<uint16_t>(out.data[0] | out.data[1] << 8);
  CHECK(d == F32ToF16(top / -8));

  const Encoding int4 = Encoding::Integer(Ints(4, 32, true, DType::kF32));
  EncodedTensor ints = EncodedTensor::Allocate(int4, 1, 32);
  CodeRow(MakeRow(int4, 32).get(), w, ScaleSearch::kMinMax, {}, &ints);
  float scale = 0;
  std::memcpy(&scale, ints.scales.data(), 4);
  CHECK(scale == doctest::Approx(std::abs(top) / 7.5f));
}

TEST_CASE("zero blocks, and importance that says nothing") {
  for (const GridCase& c : GridCases()) {
    CAPTURE(c.encoding.Name());
    const int64_t cols = Columns(c.encoding);
    const auto grid = MakeRow(c.encoding, cols);
    const auto n = static_cast<size_t>(cols);
    EncodedTensor out = EncodedTensor::Allocate(c.encoding, 1, cols);
    for (const float v :
         CodeRow(grid.get(), std::vector<float>(n), ScaleSearch::kSearch, {}, &out)) {
      REQUIRE(v == 0);
    }
    if (c.encoding.kind == Encoding::Kind::kInteger) {
      float scale = 0;
      DecodeToFloat(c.encoding.integer.scale_dtype, out.scales.data(), &scale, 1);
      CHECK(scale > 0);  // a reader may divide by it
    }

    const std::vector<float> w = RandomWeights(cols, 8);
    const std::vector<float> want = CodeRow(grid.get(), w, ScaleSearch::kSearch, {}, &out);
    std::vector<float> bad(n, 1.0f);
    bad[3] = NAN;
    CHECK(CodeRow(grid.get(), w, ScaleSearch::kSearch, std::vector<float>(n), &out) == want);
    CHECK(CodeRow(grid.get(), w, ScaleSearch::kSearch, bad, &out) == want);
    bad[3] = INFINITY;
    CHECK(CodeRow(grid.get(), w, ScaleSearch::kSearch, bad, &out) == want);

    // A block whose one half has no importance still codes that half sensibly.
    std::vector<float> half(n, 1.0f);
    std::fill(half.begin(), half.begin() + static_cast<std::ptrdiff_t>(n / 2), 0.0f);
    const std::vector<float> v = CodeRow(grid.get(), w, ScaleSearch::kSearch, half, &out);
    double unseen = 0, size = 0;
    for (size_t i = 0; i < n / 2; ++i) {
      unseen += std::pow(w[i] - v[i], 2);
      size += std::pow(w[i], 2);
    }
    CHECK(unseen < 0.5 * size);
  }
}

// The codebooks of IQ2 and IQ3 have no zero.
bool HasZero(const Encoding& encoding) {
  const std::string name = encoding.Name();
  return !name.starts_with("iq2_") && !name.starts_with("iq3_");
}

TEST_CASE("one value, constant blocks and single signs are represented well") {
  for (const GridCase& c : GridCases()) {
    if (c.coarse) continue;
    CAPTURE(c.encoding.Name());
    const int64_t cols = Columns(c.encoding);
    const auto grid = MakeRow(c.encoding, cols);
    EncodedTensor out = EncodedTensor::Allocate(c.encoding, 1, cols);
    for (const float value : {0.3f, -0.3f}) {
      const std::vector<float> w(static_cast<size_t>(cols), value);
      const std::vector<float> v = CodeRow(grid.get(), w, ScaleSearch::kSearch, {}, &out);
      CHECK(WeightedError(w, v, {}) < 1e-3 * WeightedError(w, std::vector<float>(w.size()), {}));
    }
    if (!HasZero(c.encoding)) continue;
    std::vector<float> spike(static_cast<size_t>(cols), 0.0f);
    spike[5] = -2.5f;
    const std::vector<float> v = CodeRow(grid.get(), spike, ScaleSearch::kSearch, {}, &out);
    CHECK(v[5] == doctest::Approx(-2.5f).epsilon(0.02));
    CHECK(v[6] == doctest::Approx(0.0f).epsilon(0.1));
  }
}

TEST_CASE("BeginSubBlock fits the new weights without touching other sub-blocks") {
  for (const BlockType type :
       {BlockType::kQ2_K, BlockType::kQ3_K, BlockType::kQ4_K, BlockType::kQ5_K, BlockType::kQ6_K,
        BlockType::kIQ2_XXS, BlockType::kIQ2_XS, BlockType::kIQ2_S, BlockType::kIQ3_XXS,
        BlockType::kIQ3_S}) {
    const auto grid = MakeRow(Encoding::Block(type), 256);
    CAPTURE(TraitsOf(type).name);
    REQUIRE(grid->sub_block() < grid->block());
    const auto sub = static_cast<size_t>(grid->sub_block());
    const std::vector<float> w = RandomWeights(256, 21);
    std::vector<float> changed = w;
    for (size_t i = sub; i < 2 * sub; ++i) changed[i] = 0.5f * w[i] + 0.003f;

    const auto unit = static_cast<size_t>(grid->unit());
    const auto round = [&](const std::vector<float>& from, size_t i) {
      return grid->Round(static_cast<int64_t>(i), std::span<const float>(from).subspan(i, unit));
    };
    const auto error = [&] {
      double sum = 0;
      for (size_t i = sub; i < 2 * sub; i += unit) {
        const std::vector<float> v = round(changed, i);
        for (size_t j = 0; j < unit; ++j) sum += std::pow(changed[i + j] - v[j], 2);
      }
      return sum;
    };
    grid->BeginBlock(w, {}, ScaleSearch::kSearch);
    const double before = error();
    const std::vector<float> other = round(w, 0);
    grid->BeginSubBlock(1, std::span<const float>(changed).subspan(sub, sub), {});
    CHECK(error() < before);
    CHECK(round(w, 0) == other);

    EncodedTensor out = EncodedTensor::Allocate(Encoding::Block(type), 1, 256);
    std::vector<float> seen, decoded(256);
    for (size_t i = 0; i < 256; i += unit) {
      for (const float v : round(changed, i)) seen.push_back(v);
    }
    grid->Pack(&out, 0, 0);
    DecodeRows(out, 0, 1, decoded.data());
    CHECK(seen == decoded);
  }
}

TEST_CASE("MakeGrid refuses what has no grid") {
  CHECK(MakeRow(Encoding::Plain(DType::kF16), 256) == nullptr);
  CHECK(MakeRow(Encoding::Block(BlockType::kQ8_K), 256) == nullptr);
  CHECK(MakeRow(Encoding::Block(BlockType::kQ4_0), 172) == nullptr);
  CHECK(MakeRow(Encoding::Block(BlockType::kQ4_K), 128) == nullptr);
  CHECK(MakeRow(Encoding::Block(BlockType::kIQ4_NL), 172) == nullptr);
  CHECK(MakeRow(Encoding::Block(BlockType::kIQ4_XS), 128) == nullptr);
  CHECK(MakeRow(Encoding::Integer(Ints(4, 128, true, DType::kF16)), 172) == nullptr);
  CHECK(MakeRow(Encoding::Integer(Ints(4, 32, true, DType::kI8)), 64) == nullptr);
  CHECK(MakeRow(Encoding::Integer(Ints(4, 0, true, DType::kF16)), 172) != nullptr);
}

}  // namespace
}  // namespace pennyweight
