// Our searches against the published searches of llama.cpp's quantizer, with its own weights
// h sqrt(sigma2 + x^2): the error must not be larger. Written from their description in fp32.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "quant/codec.h"
#include "quant/grid.h"
#include "tests/quant/matrices.h"
#include "tests/quant/one_row.h"

namespace pennyweight {
namespace {

using Floats = std::vector<float>;

int Clamped(float v, int lo, int hi) {
  return std::clamp(static_cast<int>(std::nearbyint(v)), lo, hi);
}

struct ScaleMin {
  float scale = 0, min = 0;
};

// Affine search of one sub-block: 37 inverse scales, each with weighted least squares.
ScaleMin Qkx3(const float* x, const float* w, int n, int levels) {
  float low = std::min(x[0], 0.0f), high = x[0], sum_w = 0, sum_x = 0;
  for (int i = 0; i < n; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
    sum_w += w[i];
    sum_x += w[i] * x[i];
  }
  if (high <= low) return {0, -low};
  ScaleMin best{(high - low) / static_cast<float>(levels), low};
  double best_error = 1e30;
  for (int step = -1; step <= 36; ++step) {
    const float extra = step < 0 ? 0.0f : -0.9f + 0.05f * static_cast<float>(step);
    const float inverse = (extra + static_cast<float>(levels)) / (high - low);
    float sl = 0, sl2 = 0, sxl = 0;
    std::vector<int> codes(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) {
      const int q = Clamped(inverse * (x[i] - low), 0, levels);
      codes[static_cast<size_t>(i)] = q;
      const auto l = static_cast<float>(q);
      sl += w[i] * l;
      sl2 += w[i] * l * l;
      sxl += w[i] * l * x[i];
    }
    ScaleMin fit = best;
    const float det = sum_w * sl2 - sl * sl;
    if (step >= 0) {
      if (!(det > 0)) continue;
      fit = {(sum_w * sxl - sum_x * sl) / det, (sl2 * sum_x - sl * sxl) / det};
      if (fit.min > 0) fit = {sxl / sl2, 0};
    }
    double error = 0;
    for (int i = 0; i < n; ++i) {
      const float e =
          fit.scale * static_cast<float>(codes[static_cast<size_t>(i)]) + fit.min - x[i];
      error += w[i] * e * e;
    }
    if (error < best_error) {
      best_error = error;
      best = fit;
    }
  }
  return {best.scale, -best.min};
}

// Positive integers for the scales of a super-block; returns their common step.
float Qp(const Floats& x, const Floats& w, int levels, std::vector<int>* codes) {
  const float top = *std::max_element(x.begin(), x.end());
  codes->assign(x.size(), 0);
  if (!(top > 0)) return 0;
  double best_error = 1e30;
  float best = 0;
  for (int step = -4; step <= 4; ++step) {
    const float inverse = (0.1f * static_cast<float>(step) + static_cast<float>(levels)) / top;
    double error = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const float e = x[i] - static_cast<float>(Clamped(inverse * x[i], 0, levels)) / inverse;
      error += w[i] * e * e;
    }
    if (error < best_error) {
      best_error = error;
      best = inverse;
    }
  }
  float xl = 0, l2 = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    (*codes)[i] = Clamped(best * x[i], 0, levels);
    const auto l = static_cast<float>((*codes)[i]);
    xl += w[i] * x[i] * l;
    l2 += w[i] * l * l;
  }
  for (int sweep = 0; sweep < 5; ++sweep) {
    bool changed = false;
    for (size_t i = 0; i < x.size(); ++i) {
      const auto l = static_cast<float>((*codes)[i]);
      float rest_xl = xl - w[i] * x[i] * l, rest_l2 = l2 - w[i] * l * l;
      if (!(rest_xl > 0 && rest_l2 > 0)) continue;
      const int next = Clamped(x[i] * rest_l2 / rest_xl, 0, levels);
      if (next == (*codes)[i]) continue;
      rest_xl += w[i] * x[i] * static_cast<float>(next);
      rest_l2 += w[i] * static_cast<float>(next * next);
      if (rest_xl * rest_xl * l2 > xl * xl * rest_l2) {
        (*codes)[i] = next;
        xl = rest_xl;
        l2 = rest_l2;
        changed = true;
      }
    }
    if (!changed) break;
  }
  return xl / l2;
}

double ReferenceAffineK(const Floats& x, const Floats& w, int sub, int levels, int top) {
  Floats scales, mins, weights;
  for (int j = 0; j < 256; j += sub) {
    const ScaleMin fit = Qkx3(x.data() + j, w.data() + j, sub, levels);
    scales.push_back(fit.scale);
    mins.push_back(fit.min);
    float sum = 0;
    for (int i = 0; i < sub; ++i) sum += w[static_cast<size_t>(j + i)];
    weights.push_back(sum);
  }
  std::vector<int> sc, mn;
  const float d = RoundThrough(DType::kF16, Qp(scales, weights, top, &sc));
  const float dmin = RoundThrough(DType::kF16, Qp(mins, weights, top, &mn));
  double error = 0;
  for (size_t i = 0; i < 256; ++i) {
    const size_t j = i / static_cast<size_t>(sub);
    const float scale = d * static_cast<float>(sc[j]), min = dmin * static_cast<float>(mn[j]);
    const int q = scale == 0 ? 0 : Clamped((x[i] + min) / scale, 0, levels);
    const float e = x[i] - (scale * static_cast<float>(q) - min);
    error += w[i] * e * e;
  }
  return error;
}

// Symmetric search of n weights: 19 inverse scales, largest (sum wxl)^2 / sum wl^2.
float Qx(const float* x, const float* w, int n, int levels, std::vector<int>* codes) {
  float top = 0;
  for (int i = 0; i < n; ++i) top = std::abs(x[i]) > std::abs(top) ? x[i] : top;
  codes->assign(static_cast<size_t>(n), 0);
  if (top == 0) return 0;
  float best = -1, scale = 0;
  for (int step = -9; step <= 9; ++step) {
    const float inverse = -(static_cast<float>(levels) + 0.1f * static_cast<float>(step)) / top;
    float xl = 0, l2 = 0;
    std::vector<int> now;
    for (int i = 0; i < n; ++i) {
      now.push_back(Clamped(inverse * x[i], -levels, levels - 1));
      const auto l = static_cast<float>(now.back());
      xl += w[i] * x[i] * l;
      l2 += w[i] * l * l;
    }
    if (l2 > 0 && xl * xl > best * l2) {
      best = xl * xl / l2;
      scale = xl / l2;
      *codes = now;
    }
  }
  return scale;
}

double ReferenceSymmetricK(const Floats& x, const Floats& w, int levels, int top) {
  Floats scales, weights;
  std::vector<int> codes;
  for (int j = 0; j < 256; j += 16) {
    scales.push_back(Qx(x.data() + j, w.data() + j, 16, levels, &codes));
    float sum = 0;
    for (int i = 0; i < 16; ++i) sum += w[static_cast<size_t>(j + i)];
    weights.push_back(sum);
  }
  const float d = RoundThrough(DType::kF16, Qx(scales.data(), weights.data(), 16, top, &codes));
  double error = 0;
  for (size_t i = 0; i < 256; ++i) {
    const float scale = d * static_cast<float>(codes[i / 16]);
    const int q = scale == 0 ? 0 : Clamped(x[i] / scale, -levels, levels - 1);
    const float e = x[i] - scale * static_cast<float>(q);
    error += w[i] * e * e;
  }
  return error;
}

double ReferenceLegacy(const Floats& x, const Floats& w, int levels) {
  double error = 0;
  for (size_t j = 0; j < 256; j += 32) {
    std::vector<int> codes;
    const float scale =
        RoundThrough(DType::kF16, Qx(x.data() + j, w.data() + j, 32, levels, &codes));
    for (size_t i = 0; i < 32; ++i) {
      const float e = x[j + i] - scale * static_cast<float>(codes[i]);
      error += w[j + i] * e * e;
    }
  }
  return error;
}

constexpr float kIq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                            1,    13,   25,  38,  53,  69,  89,  113};

float NearestIq4(float v) {
  return *std::min_element(std::begin(kIq4), std::end(kIq4),
                           [v](float a, float b) { return std::abs(a - v) < std::abs(b - v); });
}

// The scale of 32 weights of IQ4: 15 inverse scales, largest (sum wxl)^2 / sum wl^2.
float Iq4Scale(const float* x, const float* w) {
  float top = 0;
  for (int i = 0; i < 32; ++i) top = std::abs(x[i]) > std::abs(top) ? x[i] : top;
  float best = -1, scale = 0;
  for (int step = -7; step <= 7; ++step) {
    const float inverse = (-127.0f + static_cast<float>(step)) / top;
    float xl = 0, l2 = 0;
    for (int i = 0; i < 32; ++i) {
      const float l = NearestIq4(inverse * x[i]);
      xl += w[i] * x[i] * l;
      l2 += w[i] * l * l;
    }
    if (xl * xl > best * l2) {
      best = xl * xl / l2;
      scale = xl / l2;
    }
  }
  return scale;
}

// Eight blocks of 32 with a scale each, or with a common d and integers of six bits.
double ReferenceIq4(const Floats& x, const Floats& w, bool two_levels) {
  Floats scales;
  float largest = 0;
  for (size_t j = 0; j < 256; j += 32) {
    scales.push_back(Iq4Scale(x.data() + j, w.data() + j));
    if (std::abs(scales.back()) > std::abs(largest)) largest = scales.back();
  }
  const float d = RoundThrough(DType::kF16, -largest / 32);
  double error = 0;
  for (size_t i = 0; i < 256; ++i) {
    const float scale = two_levels ? d * static_cast<float>(Clamped(scales[i / 32] / d, -32, 31))
                                   : RoundThrough(DType::kF16, scales[i / 32]);
    const float e = x[i] - scale * NearestIq4(x[i] / scale);
    error += w[i] * e * e;
  }
  return error;
}

double Ours(BlockType type, const Floats& x, const Floats& w) {
  const auto grid = MakeRow(Encoding::Block(type), 256);
  const auto n = static_cast<size_t>(grid->block());
  double error = 0;
  for (size_t b = 0; b < 256; b += n) {
    grid->BeginBlock({x.data() + b, n}, {w.data() + b, n}, ScaleSearch::kSearch);
    for (size_t i = 0; i < n; ++i) {
      const float e = x[b + i] - grid->Round(static_cast<int64_t>(i), x[b + i]);
      error += w[b + i] * e * e;
    }
  }
  return error;
}

TEST_CASE("searches are at least as good as the reference quantizer's") {
  double ours[9] = {}, theirs[9] = {};
  for (uint32_t seed = 0; seed < 60; ++seed) {
    const Floats x = RandomWeights(256, seed);
    Floats w = RandomWeights(256, seed + 500, 1);
    double power = 0;
    for (const float v : x) power += 2.0 * v * v / 256;
    for (size_t i = 0; i < 256; ++i) {
      w[i] = (w[i] * w[i] + 0.05f) * std::sqrt(static_cast<float>(power) + x[i] * x[i]);
    }
    constexpr BlockType kTypes[9] = {BlockType::kQ2_K, BlockType::kQ4_K,   BlockType::kQ5_K,
                                     BlockType::kQ3_K, BlockType::kQ6_K,   BlockType::kQ4_0,
                                     BlockType::kQ5_0, BlockType::kIQ4_NL, BlockType::kIQ4_XS};
    for (int t = 0; t < 9; ++t) ours[t] += Ours(kTypes[t], x, w);
    theirs[0] += ReferenceAffineK(x, w, 16, 3, 15);
    theirs[1] += ReferenceAffineK(x, w, 32, 15, 63);
    theirs[2] += ReferenceAffineK(x, w, 32, 31, 63);
    theirs[3] += ReferenceSymmetricK(x, w, 4, 32);
    theirs[4] += ReferenceSymmetricK(x, w, 32, 128);
    theirs[5] += ReferenceLegacy(x, w, 8);
    theirs[6] += ReferenceLegacy(x, w, 16);
    theirs[7] += ReferenceIq4(x, w, false);
    theirs[8] += ReferenceIq4(x, w, true);
  }
  for (int t = 0; t < 9; ++t) {
    CAPTURE(t);
    CHECK(ours[t] < theirs[t]);
    CHECK(ours[t] > 0.5 * theirs[t]);  // the same bits cannot be that much better
    MESSAGE("error over the reference's: ", ours[t] / theirs[t]);
  }
}

}  // namespace
}  // namespace pennyweight
