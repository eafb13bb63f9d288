#include "quant/shrink_hessian.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "lib/parallel.h"

namespace pennyweight {
namespace {

// 0 where there is nothing.
double InverseRoot(double d) { return d > 0 ? 1 / std::sqrt(d) : 0; }

// Of the diagonal.
std::vector<double> InverseRoots(const float* h, int64_t k) {
  std::vector<double> roots;
  for (int64_t i = 0; i < k; ++i) roots.push_back(InverseRoot(h[i * k + i]));
  return roots;
}

// Sums over the correlations beside the diagonal.
struct Sums {
  double variance = 0;  // sum (1 - r^2)^2
  double square = 0;    // sum r^2
  double distance = 0;  // sum (r - prior's r)^2

  void AddCorrelation(double r) {
    const double rest = std::max(0.0, 1 - r * r);
    variance += rest * rest;
    square += r * r;
  }
};

Sums Total(const std::vector<Sums>& rows) {
  Sums total;
  for (const Sums& row : rows) {
    total.variance += row.variance;
    total.square += row.square;
    total.distance += row.distance;
  }
  return total;
}

// The intensity at which the mixture with a target is expected to be nearest to the true matrix.
double IntensityOf(double variance_sum, double distance, int64_t tokens) {
  const double variance = variance_sum / static_cast<double>(std::max<int64_t>(1, tokens));
  return tokens == 0 || variance >= distance ? 1 : variance / distance;
}

Sums SumCorrelations(const Context& context, const float* h, const std::vector<double>& roots,
                     int64_t k, const float* prior, const std::vector<double>& prior_roots) {
  std::vector<Sums> rows(static_cast<size_t>(k));
  ParallelFor(context, k, [&](int64_t i) {
    Sums& sums = rows[static_cast<size_t>(i)];
    for (int64_t j = i + 1; j < k; ++j) {
      const auto ii = static_cast<size_t>(i), jj = static_cast<size_t>(j);
      if (roots[ii] * roots[jj] == 0) continue;  // nothing was seen of it
      const double r = h[i * k + j] * roots[ii] * roots[jj];
      sums.AddCorrelation(r);
      if (prior == nullptr) continue;
      const double miss = r - prior[i * k + j] * prior_roots[ii] * prior_roots[jj];
      sums.distance += miss * miss;
    }
  });
  return Total(rows);
}

// Entries of the diagonal that no token has moved become the prior's.
void FillDiagonal(const float* prior, int64_t k, float* h) {
  double own = 0, known = 0;
  for (int64_t i = 0; i < k; ++i) {
    if (!(h[i * k + i] > 0)) continue;
    own += h[i * k + i];
    known += prior[i * k + i];
  }
  const double scale = own > 0 && known > 0 ? own / known : 1;
  for (int64_t i = 0; i < k; ++i) {
    float& d = h[i * k + i];
    if (!(d > 0)) d = static_cast<float>(scale * prior[i * k + i]);
  }
}

}  // namespace

Shrinkage ShrinkHessian(const Context& context, float* h, int64_t k, int64_t tokens,
                        const float* prior) {
  const std::vector<double> seen = InverseRoots(h, k);
  const std::vector<double> prior_roots =
      prior == nullptr ? std::vector<double>() : InverseRoots(prior, k);
  const Sums sums = SumCorrelations(context, h, seen, k, prior, prior_roots);
  // What is expected to remain at the best t is V (1 - V / D): least for the nearer target.
  Shrinkage result;
  result.to_prior = prior != nullptr && (tokens == 0 || sums.distance < sums.square);
  const double distance = result.to_prior ? sums.distance : sums.square;
  result.intensity = IntensityOf(sums.variance, distance, tokens);
  if (!std::isfinite(result.intensity)) return {};  // of what is not finite: the caller's to find

  if (prior != nullptr) FillDiagonal(prior, k, h);
  const double own = 1 - result.intensity;
  ParallelFor(context, k, [&](int64_t i) {
    const auto ii = static_cast<size_t>(i);
    const double root_i = std::sqrt(static_cast<double>(h[i * k + i]));
    for (int64_t j = i + 1; j < k; ++j) {
      const auto jj = static_cast<size_t>(j);
      double target = 0;
      if (result.to_prior) {
        target = prior[i * k + j] * prior_roots[ii] * prior_roots[jj] * root_i *
                 std::sqrt(static_cast<double>(h[j * k + j]));
      }
      h[i * k + j] = static_cast<float>(own * h[i * k + j] + result.intensity * target);
    }
  });
  return result;
}

Result<Shrinkage> ShrinkHessian(const Context& context, PanelMatrix* h, int64_t tokens) {
  PW_ASSIGN(const std::vector<float> diagonal, h->Diagonal());
  std::vector<double> roots;
  for (const float d : diagonal) roots.push_back(InverseRoot(d));
  std::vector<Sums> rows(diagonal.size());
  PW_TRY(h->VisitRows(context, false, [&](const PanelMatrix::Panel& panel, int64_t r) {
    const int64_t i = panel.row + r;
    const double root = roots[static_cast<size_t>(i)];
    const float* row = panel.data + r * panel.columns;
    for (int64_t c = std::max<int64_t>(0, i + 1 - panel.column); c < panel.columns; ++c) {
      const double both = root * roots[static_cast<size_t>(panel.column + c)];
      if (both != 0) rows[static_cast<size_t>(i)].AddCorrelation(row[c] * both);
    }
  }));
  const Sums sums = Total(rows);
  const Shrinkage result{IntensityOf(sums.variance, sums.square, tokens), false};
  if (!std::isfinite(result.intensity)) return Shrinkage{};
  const double own = 1 - result.intensity;
  PW_TRY(h->VisitRows(context, true, [&](const PanelMatrix::Panel& panel, int64_t r) {
    float* row = panel.data + r * panel.columns;
    for (int64_t c = std::max<int64_t>(0, panel.row + r + 1 - panel.column); c < panel.columns;
         ++c) {
      row[c] = static_cast<float>(own * row[c]);
    }
  }));
  return result;
}

}  // namespace pennyweight
