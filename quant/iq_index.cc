#include "quant/iq_index.h"

#include <algorithm>
#include <span>

#include "quant/iq_grids.h"

namespace pennyweight {
namespace {

std::span<const uint16_t> GridOf(BlockType type) {
  switch (type) {
    case BlockType::kIQ2_XXS:
      return kIq2XxsGrid;
    case BlockType::kIQ2_XS:
      return kIq2XsGrid;
    case BlockType::kIQ2_S:
      return kIq2SGrid;
    case BlockType::kIQ3_XXS:
      return kIq3XxsGrid;
    default:
      return kIq3SGrid;
  }
}

}  // namespace

CodebookIndex::CodebookIndex(BlockType type) {
  const std::span<const uint16_t> grid = GridOf(type);
  const bool is_iq3 = type == BlockType::kIQ3_XXS || type == BlockType::kIQ3_S;
  dims = is_iq3 ? 4 : 8;
  levels = is_iq3 ? 8 : 3;
  states = is_iq3 ? 8 : 9;
  for (int k = 0; k < levels; ++k) {
    const int value = !is_iq3                       ? kIq2Values[k]
                      : type == BlockType::kIQ3_XXS ? kIq3XxsValues[k]
                                                    : 2 * k + 1;
    level_values[k] = static_cast<float>(value);
  }
  const int bits = 16 / dims;
  const auto code = [&](int32_t word, int j) {
    return grid[static_cast<size_t>(word)] >> (j * bits) & ((1 << bits) - 1);
  };
  const auto quarter = [&](int32_t word, int q) {
    return is_iq3 ? code(word, q) : code(word, 2 * q) * 3 + code(word, 2 * q + 1);
  };
  const auto half = [&](int32_t word, int k) {
    return quarter(word, 2 * k) * states + quarter(word, 2 * k + 1);
  };
  const auto words = static_cast<int32_t>(grid.size());
  std::vector<int> length(static_cast<size_t>(states * states));
  for (int32_t w = 0; w < words; ++w) ++length[static_cast<size_t>(half(w, 0))];
  for (int32_t w = 0; w < words; ++w) entry.push_back(w);
  // Runs of equal length one after the other: their loops are predicted well.
  std::sort(entry.begin(), entry.end(), [&](int32_t a, int32_t b) {
    const int x = half(a, 0), y = half(b, 0);
    const int m = length[static_cast<size_t>(x)], n = length[static_cast<size_t>(y)];
    if (m != n) return m < n;
    return x != y ? x < y : half(a, 1) < half(b, 1);
  });
  for (int32_t i = 0; i < words;) {
    const int32_t w = entry[static_cast<size_t>(i)];
    const int32_t end = i + length[static_cast<size_t>(half(w, 0))];
    const size_t begin = second.size();
    const auto second_half = [&](int32_t k) {
      return half(entry[static_cast<size_t>(std::min(k, end - 1))], 1);
    };
    places.resize(places.size() + 128);
    for (int32_t k = i; k < end; ++k) {
      places[runs.size() * 128 + static_cast<size_t>(second_half(k))] = k;
    }
    for (; i < end; i += 2) {
      second.push_back({static_cast<uint16_t>(second_half(i) * kLanes),
                        static_cast<uint16_t>(second_half(i + 1) * kLanes)});
    }
    i = end;
    runs.push_back({{static_cast<uint16_t>(quarter(w, 0) * kLanes),
                     static_cast<uint16_t>(quarter(w, 1) * kLanes)},
                    static_cast<uint16_t>(begin),
                    static_cast<uint16_t>(second.size())});
  }
  values.resize(static_cast<size_t>(words * dims));
  for (int32_t i = 0; i < words; ++i) {
    for (int j = 0; j < dims; ++j) {
      values[static_cast<size_t>(j * words + i)] =
          level_values[code(entry[static_cast<size_t>(i)], j)];
    }
  }
}

const CodebookIndex& IndexOf(BlockType type) {
  switch (type) {
    case BlockType::kIQ2_XXS: {
      static const CodebookIndex index(type);
      return index;
    }
    case BlockType::kIQ2_XS: {
      static const CodebookIndex index(type);
      return index;
    }
    case BlockType::kIQ2_S: {
      static const CodebookIndex index(type);
      return index;
    }
    case BlockType::kIQ3_XXS: {
      static const CodebookIndex index(type);
      return index;
    }
    default: {
      static const CodebookIndex index(type);
      return index;
    }
  }
}

}  // namespace pennyweight
