// Random matrices and the list of types that have a grid, for the tests of this folder.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "lib/encoding.h"

namespace pennyweight {

// Weights as models have them: heavier tails than Gaussian, one large value in a hundred.
inline std::vector<float> RandomWeights(int64_t count, uint32_t seed, float deviation = 0.05f) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, 1);  // a deviation of 0 is no distribution's
  std::vector<float> w(static_cast<size_t>(count));
  for (float& v : w) {
    v = deviation * normal(rng);
    if (rng() % 100 == 0) v *= 4;
  }
  return w;
}

// Correlated activations x[t, k]: a few hidden factors, channels of unequal size, noise.
inline std::vector<float> RandomActivations(int64_t t, int64_t k, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, 1);
  const int64_t factors = std::max<int64_t>(2, k / 8);
  std::mt19937 mixing(77);  // the same model for every seed: a held-out draw is of the same kind
  std::vector<float> load(static_cast<size_t>(factors * k)), size(static_cast<size_t>(k));
  for (float& v : load) v = normal(mixing);
  for (float& v : size) v = std::exp(0.7f * normal(mixing));
  std::vector<float> x(static_cast<size_t>(t * k));
  std::vector<float> z(static_cast<size_t>(factors));
  for (int64_t r = 0; r < t; ++r) {
    for (float& v : z) v = normal(rng);
    for (int64_t c = 0; c < k; ++c) {
      float sum = normal(rng);
      for (int64_t f = 0; f < factors; ++f) {
        sum += load[static_cast<size_t>(f * k + c)] * z[static_cast<size_t>(f)];
      }
      x[static_cast<size_t>(r * k + c)] = sum * size[static_cast<size_t>(c)];
    }
  }
  return x;
}

// X^T X / t in double, symmetric, [k, k].
inline std::vector<double> Hessian(const std::vector<float>& x, int64_t t, int64_t k) {
  std::vector<double> h(static_cast<size_t>(k * k));
  for (int64_t r = 0; r < t; ++r) {
    const float* row = x.data() + r * k;
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = i; j < k; ++j) {
        h[static_cast<size_t>(i * k + j)] += static_cast<double>(row[i]) * row[j];
      }
    }
  }
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = i; j < k; ++j) {
      h[static_cast<size_t>(i * k + j)] /= static_cast<double>(t);
      h[static_cast<size_t>(j * k + i)] = h[static_cast<size_t>(i * k + j)];
    }
  }
  return h;
}

// tr(E H E^T) with E = a - b, [rows, k].
inline double OutputError(const std::vector<float>& a, const std::vector<float>& b,
                          const std::vector<double>& h, int64_t rows, int64_t k) {
  double total = 0;
  std::vector<double> e(static_cast<size_t>(k));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < k; ++c) {
      const auto at = static_cast<size_t>(r * k + c);
      e[static_cast<size_t>(c)] = static_cast<double>(a[at]) - b[at];
    }
    for (int64_t i = 0; i < k; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < k; ++j)
        sum += h[static_cast<size_t>(i * k + j)] * e[static_cast<size_t>(j)];
      total += sum * e[static_cast<size_t>(i)];
    }
  }
  return total;
}

struct GridCase {
  Encoding encoding;
  double low, high;  // relative squared error of rtn on RandomWeights lies between
  // Powers of two as scales, no zero, or a codebook: single values need not be met, and without
  // importance the search may find nothing better than min/max.
  bool coarse = false;
};

inline IntegerSpec Ints(int bits, int64_t group, bool symmetric, DType scale) {
  IntegerSpec spec;
  spec.bits = bits;
  spec.group_size = group;
  spec.symmetric = symmetric;
  spec.scale_dtype = scale;
  return spec;
}

inline std::vector<GridCase> GridCases() {
  using B = BlockType;
  return {
      {Encoding::Block(B::kQ4_0), 3e-3, 1.2e-2},
      {Encoding::Block(B::kQ4_1), 2e-3, 7e-3},
      {Encoding::Block(B::kQ5_0), 7e-4, 3e-3},
      {Encoding::Block(B::kQ5_1), 5e-4, 2e-3},
      {Encoding::Block(B::kQ8_0), 1e-5, 5e-5},
      {Encoding::Block(B::kQ2_K), 3e-2, 9e-2},
      {Encoding::Block(B::kQ3_K), 9e-3, 3e-2},
      {Encoding::Block(B::kQ4_K), 2e-3, 7e-3},
      {Encoding::Block(B::kQ5_K), 5e-4, 2e-3},
      {Encoding::Block(B::kQ6_K), 1e-4, 5e-4},
      {Encoding::Block(B::kIQ4_NL), 3e-3, 1.2e-2},
      {Encoding::Block(B::kIQ4_XS), 3e-3, 1.2e-2},
      {Encoding::Block(B::kMXFP4), 8e-3, 3e-2, true},
      {Encoding::Block(B::kNVFP4), 5e-3, 2e-2},
      {Encoding::Block(B::kTQ1_0), 0.1, 0.4},
      {Encoding::Block(B::kTQ2_0), 0.1, 0.4},
      {Encoding::Block(B::kQ1_0), 0.3, 0.7, true},
      {Encoding::Block(B::kQ2_0), 0.1, 0.3},
      {Encoding::Block(B::kIQ1_S), 0.15, 0.4, true},
      {Encoding::Block(B::kIQ1_M), 0.12, 0.35, true},
      {Encoding::Block(B::kIQ2_XXS), 7e-2, 2e-1},
      {Encoding::Block(B::kIQ2_XS), 5e-2, 1.5e-1},
      {Encoding::Block(B::kIQ2_S), 4e-2, 1.2e-1},
      {Encoding::Block(B::kIQ3_XXS), 2e-2, 6e-2},
      {Encoding::Block(B::kIQ3_S), 1e-2, 4e-2},
      {Encoding::Integer(Ints(4, 32, true, DType::kF16)), 3e-3, 1.2e-2},
      {Encoding::Integer(Ints(4, 128, true, DType::kBF16)), 5e-3, 2e-2},
      {Encoding::Integer(Ints(4, 64, false, DType::kF16)), 4e-3, 1.5e-2},
      {Encoding::Integer(Ints(4, 0, false, DType::kF32)), 7e-3, 3e-2},
      {Encoding::Integer(Ints(2, 16, true, DType::kF16)), 3e-2, 1.5e-1},
      {Encoding::Integer(Ints(2, 64, false, DType::kBF16)), 5e-2, 2.5e-1},
      {Encoding::Integer(Ints(3, 128, true, DType::kF32)), 2e-2, 8e-2},
      {Encoding::Integer(Ints(5, 32, false, DType::kF16)), 6e-4, 4e-3},
      {Encoding::Integer(Ints(6, 64, true, DType::kF16)), 3e-4, 2e-3},
      {Encoding::Integer(Ints(7, 16, false, DType::kF32)), 2e-5, 2e-4},
      {Encoding::Integer(Ints(8, 0, true, DType::kBF16)), 2e-5, 2e-4},
      {Encoding::Integer(Ints(8, 128, false, DType::kF32)), 1e-5, 1e-4},
  };
}

}  // namespace pennyweight
