// Words of the IQ2 and IQ3 codebooks against a search of all words and all signs in double
// precision.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <span>

#include "quant/codec_blocks.h"
#include "quant/grid.h"
#include "quant/iq_grids.h"
#include "quant/iq_index.h"
#include "tests/quant/matrices.h"

namespace pennyweight {
namespace {

constexpr BlockType kTypes[] = {BlockType::kIQ2_XXS, BlockType::kIQ2_XS, BlockType::kIQ2_S,
                                BlockType::kIQ3_XXS, BlockType::kIQ3_S};

LaneArray<float> Lanes(const std::vector<float>& w) {
  LaneArray<float> lanes(static_cast<int64_t>(w.size()));
  std::copy(w.begin(), w.end(), lanes.data());
  return lanes;
}

struct Codebook {
  std::vector<std::vector<double>> words;
  bool even_signs;  // of eight values
};

Codebook CodebookOf(BlockType type) {
  const auto unpack = [](std::span<const uint16_t> grid, int dims, auto value) {
    std::vector<std::vector<double>> words;
    for (const uint16_t entry : grid) {
      std::vector<double> word;
      for (int j = 0; j < dims; ++j) {
        word.push_back(value(entry >> (j * 16 / dims) & ((1 << 16 / dims) - 1)));
      }
      words.push_back(word);
    }
    return words;
  };
  const auto iq2 = [](int code) { return static_cast<double>(kIq2Values[code]); };
  const auto iq3 = [](int code) { return static_cast<double>(kIq3XxsValues[code & 7]); };
  switch (type) {
    case BlockType::kIQ2_XXS:
      return {unpack(kIq2XxsGrid, 8, iq2), true};
    case BlockType::kIQ2_XS:
      return {unpack(kIq2XsGrid, 8, iq2), true};
    case BlockType::kIQ2_S:
      return {unpack(kIq2SGrid, 8, iq2), false};
    case BlockType::kIQ3_XXS:
      return {unpack(kIq3XxsGrid, 4, iq3), true};
    default:
      return {unpack(kIq3SGrid, 4, [](int code) { return 2.0 * code + 1; }), false};
  }
}

// The scale of the sub-block that holds column i, from the packed block.
double ScaleOf(BlockType type, const uint8_t* block, int64_t i) {
  const double d = LoadF16(block);
  const int64_t ib = i / 32;
  const auto nibble = [&](int64_t at, int64_t high) { return block[at] >> (4 * high) & 15; };
  switch (type) {
    case BlockType::kIQ2_XXS:
      return d * (2 * nibble(2 + ib * 8 + 7, 1) + 1) / 8;
    case BlockType::kIQ2_XS:
      return d * (2 * nibble(66 + ib, i % 32 / 16) + 1) / 8;
    case BlockType::kIQ2_S:
      return d * (2 * nibble(74 + ib, i % 32 / 16) + 1) / 8;
    case BlockType::kIQ3_XXS:
      return d * (2 * nibble(66 + ib * 4 + 3, 1) + 1) / 4;
    default:
      return d * (2 * nibble(106 + ib / 2, ib % 2) + 1);
  }
}

// |(w - q) R|^2; r[n, n] upper triangular.
double Cost(const std::vector<double>& miss, const std::vector<float>& r) {
  const size_t n = miss.size();
  double cost = 0;
  for (size_t j = 0; j < n; ++j) {
    double sum = 0;
    for (size_t i = 0; i <= j; ++i) sum += miss[i] * r[i * n + j];
    cost += sum * sum;
  }
  return cost;
}

// The least cost over all words and signs of one word (4 or 8 values).
double LeastCost(const Codebook& book, const std::vector<double>& w, double scale,
                 const std::vector<float>& r) {
  const size_t n = w.size();
  double best = 1e300;
  std::vector<double> miss(n);
  for (const auto& word : book.words) {
    for (uint32_t signs = 0; signs < 1u << n; ++signs) {
      if (book.even_signs && std::popcount(signs) % 2 != 0) continue;
      for (size_t j = 0; j < n; ++j) {
        miss[j] = w[j] - scale * word[j] * ((signs >> j & 1) != 0 ? -1 : 1);
      }
      best = std::min(best, Cost(miss, r));
    }
  }
  return best;
}

// The least diagonal cost of a unit, which may be of two words with common signs.
double LeastDiagonalCost(const Codebook& book, const std::vector<double>& w, double scale,
                         const float* h) {
  const size_t n = w.size(), dims = book.words[0].size();
  double even = 0, extra = 1e300;  // of right signs; least extra cost of one wrong sign
  int minus = 0;
  for (size_t k = 0; k < n; k += dims) {
    double right = 1e300, wrong = 1e300;
    for (const auto& word : book.words) {
      double cost = 0, flip = 1e300;
      for (size_t j = 0; j < dims; ++j) {
        const double x = std::abs(w[k + j]), g = scale * word[j];
        cost += h[k + j] * (x - g) * (x - g);
        flip = std::min(flip, 4 * h[k + j] * x * g);
      }
      right = std::min(right, cost);
      wrong = std::min(wrong, cost + flip);
    }
    even += right;
    extra = std::min(extra, wrong - right);
    for (size_t j = 0; j < dims; ++j) minus += w[k + j] < 0;
  }
  return even + (book.even_signs && minus % 2 != 0 ? extra : 0);
}

TEST_CASE("an index lists every word once, in its run") {
  for (const BlockType type : kTypes) {
    CAPTURE(TraitsOf(type).name);
    const CodebookIndex& index = IndexOf(type);
    const Codebook book = CodebookOf(type);
    REQUIRE(index.entry.size() == book.words.size());
    std::vector<int> seen(book.words.size());
    for (const int32_t entry : index.entry) ++seen[static_cast<size_t>(entry)];
    CHECK(std::count(seen.begin(), seen.end(), 1) == static_cast<int64_t>(seen.size()));
    size_t found = 0;
    for (size_t r = 0; r < index.runs.size(); ++r) {
      const CodebookIndex::Run& run = index.runs[r];
      for (size_t p = run.begin; p < run.end; ++p) {
        for (const int state : {index.second[p].first, index.second[p].second}) {
          const auto half = static_cast<int>(state / kLanes);
          const auto place = static_cast<size_t>(index.places[r * 128 + static_cast<size_t>(half)]);
          const auto& word = book.words[static_cast<size_t>(index.entry[place])];
          for (int j = 0; j < index.dims; ++j) {
            REQUIRE(index.values[static_cast<size_t>(j) * seen.size() + place] ==
                    word[static_cast<size_t>(j)]);
          }
          ++found;
        }
      }
    }
    CHECK(found >= seen.size());  // words that fill up a pair are there twice
  }
}

TEST_CASE("Round takes the best word and signs under the importance") {
  for (const BlockType type : kTypes) {
    CAPTURE(TraitsOf(type).name);
    const auto grid = MakeGrid(Encoding::Block(type), 256);
    REQUIRE(grid != nullptr);
    const Codebook book = CodebookOf(type);
    const std::vector<float> w = RandomWeights(256 * kLanes, 31);
    const LaneArray<float> lanes = Lanes(w);
    std::vector<float> h = RandomWeights(256, 32, 1);
    for (float& v : h) v = v * v + 0.05f;
    NormalizeImportance(h, 256, h.data());
    const auto unit = static_cast<size_t>(grid->unit());
    grid->BeginBlock(lanes.data(), h.data(), ScaleSearch::kSearch);
    LaneArray<float> decoded(256 * kLanes);
    for (size_t i = 0; i < 256; i += unit) {
      grid->Round(static_cast<int64_t>(i), lanes.data() + i * kLanes, nullptr, 0,
                  decoded.data() + i * kLanes);
    }
    std::vector<uint8_t> packed(static_cast<size_t>(grid->packed_bytes() * kLanes));
    grid->Pack(packed.data());
    for (size_t l = 0; l < kLanes; ++l) {
      for (size_t i = 0; i < 256; i += unit) {
        std::vector<double> x;
        double cost = 0;
        for (size_t j = i; j < i + unit; ++j) {
          x.push_back(w[j * kLanes + l]);
          const double e = x.back() - decoded[static_cast<int64_t>(j * kLanes + l)];
          cost += h[j] * e * e;
        }
        const double scale =
            ScaleOf(type, packed.data() + l * static_cast<size_t>(grid->packed_bytes()),
                    static_cast<int64_t>(i));
        const double least = LeastDiagonalCost(book, x, scale, h.data() + i);
        REQUIRE(cost >= least * (1 - 1e-5));
        REQUIRE(cost <= least * (1 + 1e-3));
      }
    }
  }
}

// An upper triangular factor as gptq has them: of correlated columns.
std::vector<float> RandomFactor(size_t n, uint32_t seed) {
  std::vector<float> r = RandomWeights(static_cast<int64_t>(n * n), seed, 0.5f);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < i; ++j) r[i * n + j] = 0;
    r[i * n + i] = 0.5f + std::abs(r[i * n + i]);
  }
  return r;
}

TEST_CASE("Round with a factor comes near the best word and signs under it") {
  for (const BlockType type : {BlockType::kIQ2_XXS, BlockType::kIQ2_S, BlockType::kIQ3_S}) {
    CAPTURE(TraitsOf(type).name);
    const auto grid = MakeGrid(Encoding::Block(type), 256);
    const Codebook book = CodebookOf(type);
    const std::vector<float> w = RandomWeights(256 * kLanes, 33);
    const LaneArray<float> lanes = Lanes(w);
    const std::vector<float> h(256, 1.0f);
    grid->BeginBlock(lanes.data(), h.data(), ScaleSearch::kSearch);
    std::vector<uint8_t> packed(static_cast<size_t>(grid->packed_bytes() * kLanes));
    const auto unit = static_cast<size_t>(grid->unit());
    LaneArray<float> decoded(8 * kLanes), plain(8 * kLanes);
    double ours = 0, least = 0, diagonal = 0;
    for (size_t i = 0; i < (unit == 8 ? 16u : 128u); i += unit) {
      const std::vector<float> r = RandomFactor(unit, static_cast<uint32_t>(40 + i));
      const auto at = static_cast<int64_t>(i);
      grid->Round(at, lanes.data() + i * kLanes, nullptr, 0, plain.data());
      grid->Round(at, lanes.data() + i * kLanes, r.data(), static_cast<int64_t>(unit),
                  decoded.data());
      grid->Pack(packed.data());
      for (size_t l = 0; l < kLanes; ++l) {
        std::vector<double> x, miss, plain_miss;
        for (size_t j = 0; j < unit; ++j) {
          x.push_back(w[(i + j) * kLanes + l]);
          miss.push_back(x.back() - decoded[static_cast<int64_t>(j * kLanes + l)]);
          plain_miss.push_back(x.back() - plain[static_cast<int64_t>(j * kLanes + l)]);
        }
        const double scale =
            ScaleOf(type, packed.data() + l * static_cast<size_t>(grid->packed_bytes()), at);
        const double best = LeastCost(book, x, scale, r);
        REQUIRE(Cost(miss, r) >= best * (1 - 1e-5));
        ours += Cost(miss, r);
        diagonal += Cost(plain_miss, r);
        least += best;
      }
    }
    MESSAGE("cost over the least: ", ours / least, "; of diagonal choices: ", diagonal / least);
    CHECK(ours < 1.5 * least);
    CHECK(ours < 0.8 * diagonal);
  }
}

TEST_CASE("targets far above the weights that scales were found for saturate") {
  for (const BlockType type : kTypes) {
    CAPTURE(TraitsOf(type).name);
    const auto grid = MakeGrid(Encoding::Block(type), 256);
    const auto unit = static_cast<size_t>(grid->unit());
    const auto bytes = static_cast<size_t>(grid->packed_bytes());
    const std::vector<float> r = RandomFactor(unit, 51), h(256, 1.0f);
    for (const float size : {0.0f, 0.01f}) {
      std::vector<float> w = RandomWeights(256 * kLanes, 52, 1.0f);
      for (float& v : w) v *= size;
      grid->BeginBlock(Lanes(w).data(), h.data(), ScaleSearch::kSearch);
      const std::vector<float> far = RandomWeights(256 * kLanes, 53, 1e30f);
      const LaneArray<float> lanes = Lanes(far);
      LaneArray<float> decoded(256 * kLanes);
      for (int64_t i = 0; i < 256; i += grid->unit()) {
        if (i > 0 && i % grid->sub_block() == 0) {
          grid->BeginSubBlock(i / grid->sub_block(), lanes.data() + i * kLanes, h.data() + i);
        }
        grid->Round(i, lanes.data() + i * kLanes, r.data(), grid->unit(),
                    decoded.data() + i * kLanes);
      }
      std::vector<uint8_t> packed(bytes * kLanes);
      grid->Pack(packed.data());
      for (size_t l = 0; l < kLanes; ++l) {
        float read[256];
        FindBlockDecoder(type)(packed.data() + l * bytes, read);
        const double d = LoadF16(packed.data() + l * bytes);
        for (int64_t i = 0; i < 256; ++i) {
          REQUIRE(read[i] == decoded[i * kLanes + static_cast<int64_t>(l)]);
          if (size == 0) REQUIRE(read[i] == 0);
          // Sub-blocks that were fitted to the targets have the highest scale there is.
          if (size > 0 && i >= grid->sub_block()) {
            REQUIRE(ScaleOf(type, packed.data() + l * bytes, i) > 31 * 0.12 * d);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace pennyweight
