#include "quant/gptq_order.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <set>

#include "quant/grid.h"

namespace pennyweight {
namespace {

// Runs of `inner` places that lie in the same run of `outer` change places: those of the largest
// columns come first.
void SortRuns(std::span<const float> diagonal, int64_t inner, int64_t outer,
              std::vector<int32_t>* order) {
  const auto k = static_cast<int64_t>(order->size());
  std::vector<int32_t> sorted;
  sorted.reserve(order->size());
  for (int64_t from = 0; from < k; from += outer) {
    struct Run {
      float largest;
      int64_t begin;
    };
    std::vector<Run> runs;
    for (int64_t begin = from; begin < from + outer; begin += inner) {
      float largest = 0;
      for (int64_t j = begin; j < begin + inner; ++j) {
        const auto column = static_cast<size_t>((*order)[static_cast<size_t>(j)]);
        largest = std::max(largest, diagonal[column]);
      }
      runs.push_back({largest, begin});
    }
    std::stable_sort(runs.begin(), runs.end(),
                     [](const Run& a, const Run& b) { return a.largest > b.largest; });
    for (const Run& run : runs) {
      sorted.insert(sorted.end(), order->begin() + run.begin, order->begin() + run.begin + inner);
    }
  }
  *order = std::move(sorted);
}

}  // namespace

std::vector<int32_t> GptqOrder(std::span<const float> diagonal,
                               std::span<const Encoding> encodings) {
  const auto k = static_cast<int64_t>(diagonal.size());
  // Lengths of runs that stay together. A unit also keeps its columns as they are.
  std::set<int64_t> lengths{k};
  int64_t unit = 1;
  for (const Encoding& encoding : encodings) {
    const auto grid = MakeGrid(encoding, k);
    if (grid == nullptr) continue;
    unit = std::max(unit, grid->unit());
    for (const int64_t n : {grid->unit(), grid->sub_block(), grid->block()}) {
      if (n > 1) lengths.insert(n);
    }
  }
  lengths.erase(lengths.begin(), lengths.lower_bound(unit));
  int64_t inner = unit;
  for (const int64_t n : lengths) {
    if (n % inner != 0) return {};
    inner = n;
  }
  std::vector<int32_t> order(static_cast<size_t>(k));
  std::iota(order.begin(), order.end(), 0);
  inner = unit;
  for (const int64_t n : lengths) {
    if (n > inner) SortRuns(diagonal, inner, n, &order);
    inner = n;
  }
  return order;
}

}  // namespace pennyweight
