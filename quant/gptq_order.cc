#include "quant/gptq_order.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

#include "lib/checked.h"
#include "lib/linalg.h"
#include "lib/parallel.h"

namespace pennyweight {
namespace {

// Runs of `inner` places that lie in the same run of `outer` change places: those of the largest
// columns come first.
void SortRuns(std::span<const float> diagonal, int64_t inner, int64_t outer,
              std::vector<int32_t>* order) {
  struct Run {
    float largest;
    int64_t begin;
  };
  const auto k = static_cast<int64_t>(order->size());
  std::vector<int32_t> sorted;
  sorted.reserve(order->size());
  std::vector<Run> runs;
  for (int64_t from = 0; from < k; from += outer) {
    runs.clear();
    for (int64_t begin = from; begin < std::min(k, from + outer); begin += inner) {
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

// x[n] -= beta (x v) v.
void Reflect(const std::vector<double>& v, int64_t n, double beta, double* x) {
  double dot = 0;
  for (int64_t j = 0; j < n; ++j) dot += x[j] * v[static_cast<size_t>(j)];
  dot *= beta;
  for (int64_t j = 0; j < n; ++j) x[j] -= dot * v[static_cast<size_t>(j)];
}

// a[n, n] becomes the upper triangular A T with a positive diagonal, t[n, n] the orthogonal T: by
// Householder reflections from the last row up, in double.
void MakeUpper(int64_t n, double* a, double* t) {
  std::fill_n(t, n * n, 0.0);
  for (int64_t i = 0; i < n; ++i) t[i * n + i] = 1;
  std::vector<double> v(static_cast<size_t>(n));
  for (int64_t i = n - 1; i >= 0; --i) {
    const double* row = a + i * n;
    double square = 0;
    for (int64_t j = 0; j <= i; ++j) square += row[j] * row[j];
    const double pivot = row[i];
    const double beside = square - pivot * pivot;
    if (beside > 0) {
      // The sign that does not cancel.
      const double target = pivot > 0 ? -std::sqrt(square) : std::sqrt(square);
      std::copy_n(row, i + 1, v.begin());
      v[static_cast<size_t>(i)] = pivot - target;
      const double beta = 2 / (beside + (pivot - target) * (pivot - target));
      for (int64_t r = 0; r <= i; ++r) Reflect(v, i + 1, beta, a + r * n);
      for (int64_t r = 0; r < n; ++r) Reflect(v, i + 1, beta, t + r * n);
    }
    std::fill_n(a + i * n, i, 0.0);
    if (a[i * n + i] > 0) continue;
    for (int64_t r = 0; r <= i; ++r) a[r * n + i] = -a[r * n + i];
    for (int64_t r = 0; r < n; ++r) t[r * n + i] = -t[r * n + i];
  }
}

}  // namespace

int64_t GptqPanel(const BlockGrid& grid) {
  return grid.block() > kGptqPanel ? kGptqPanel : kGptqPanel / grid.block() * grid.block();
}

std::vector<int32_t> GptqOrder(std::span<const float> diagonal, const BlockGrid& grid) {
  std::vector<int32_t> order(diagonal.size());
  std::iota(order.begin(), order.end(), 0);
  int64_t inner = grid.unit();
  for (const int64_t outer : {grid.sub_block(), grid.block(), GptqPanel(grid)}) {
    // A row is one long block: its parts are as panels are.
    if (outer <= inner || outer > kGptqPanel) continue;
    SortRuns(diagonal, inner, outer, &order);
    inner = outer;
  }
  return order;
}

std::vector<float> ReorderFactor(const Context& context, const float* r,
                                 std::span<const int32_t> order, int64_t panel) {
  const auto k = static_cast<int64_t>(order.size());
  std::vector<float> out(static_cast<size_t>(k * k));
  std::vector<float> turns(static_cast<size_t>(k * panel));  // T of each panel
  ParallelFor(context, CeilDiv(k, panel), [&](int64_t p) {
    const int64_t begin = p * panel, n = std::min(panel, k - begin);
    std::vector<double> a(static_cast<size_t>(n * n)), t(a.size());
    for (int64_t i = 0; i < n; ++i) {
      const float* row = r + order[static_cast<size_t>(begin + i)] * k + begin;
      std::copy_n(row, n, a.begin() + i * n);
    }
    MakeUpper(n, a.data(), t.data());
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        out[static_cast<size_t>((begin + i) * k + begin + j)] =
            static_cast<float>(a[static_cast<size_t>(i * n + j)]);
        turns[static_cast<size_t>((begin + i) * panel + j)] =
            static_cast<float>(t[static_cast<size_t>(i * n + j)]);
      }
    }
  });
  std::vector<float> above(static_cast<size_t>(k * std::min(k, panel)));
  for (int64_t begin = panel; begin < k; begin += panel) {
    const int64_t n = std::min(panel, k - begin);
    GemmNnArgs args;
    args.m = begin;
    args.n = args.k = n;
    args.a = r + begin;
    args.a_stride = k;
    args.b = turns.data() + begin * panel;
    args.b_stride = panel;
    args.c = above.data();
    args.c_stride = n;
    GemmNn(context, args);
    for (int64_t i = 0; i < begin; ++i) {
      std::copy_n(above.begin() + order[static_cast<size_t>(i)] * n, n,
                  out.begin() + i * k + begin);
    }
  }
  return out;
}

}  // namespace pennyweight
