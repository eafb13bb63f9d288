#include "tests/bench/error_bounds.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "lib/dtype.h"

namespace pennyweight {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What may be stored as a scale. kReal: any number.
enum class Stored : uint8_t { kReal, kF16, kBF16, kE8M0, kE4M3 };

// Weights in runs of `width` share a scale: value = scale * level; or scale * q + offset with q in
// [0, steps] when `steps` is positive.
struct Layout {
  int64_t width = 0;
  std::vector<double> levels = {};  // ascending
  Stored stored = Stored::kReal;
  int steps = 0;
  int zero_lo = 0, zero_hi = 0;  // value = scale * (level - zero), any integer zero of these
};

// The weights of one run that have any importance.
struct Weights {
  std::vector<double> x, h;
  double hxx = 0;

  void Add(double value, double weight) {
    if (weight <= 0) return;
    x.push_back(value);
    h.push_back(weight);
    hxx += weight * value * value;
  }
};

std::vector<double> Integers(int lo, int hi) {
  std::vector<double> levels;
  for (int q = lo; q <= hi; ++q) levels.push_back(q);
  return levels;
}

std::vector<double> Fp4Levels() {
  return {-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6};
}

// ggml-common.h, kvalues_iq4nl.
std::vector<double> Iq4Levels() {
  return {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
}

std::optional<Layout> BlockLayout(BlockType type) {
  switch (type) {
    case BlockType::kQ4_0:
      return Layout{.width = 32, .levels = Integers(-8, 7), .stored = Stored::kF16};
    case BlockType::kQ5_0:
      return Layout{.width = 32, .levels = Integers(-16, 15), .stored = Stored::kF16};
    case BlockType::kQ8_0:
      return Layout{.width = 32, .levels = Integers(-128, 127), .stored = Stored::kF16};
    case BlockType::kQ4_1:
      return Layout{.width = 32, .stored = Stored::kF16, .steps = 15};
    case BlockType::kQ5_1:
      return Layout{.width = 32, .stored = Stored::kF16, .steps = 31};
    case BlockType::kIQ4_NL:
      return Layout{.width = 32, .levels = Iq4Levels(), .stored = Stored::kF16};
    case BlockType::kTQ1_0:
      return Layout{.width = 256, .levels = Integers(-1, 1), .stored = Stored::kF16};
    case BlockType::kTQ2_0:  // two bits hold one level more than a ternary encoder uses
      return Layout{.width = 256, .levels = Integers(-1, 2), .stored = Stored::kF16};
    case BlockType::kQ1_0:
      return Layout{.width = 128, .levels = {-1, 1}, .stored = Stored::kF16};
    case BlockType::kQ2_0:
      return Layout{.width = 64, .levels = Integers(-1, 2), .stored = Stored::kF16};
    case BlockType::kMXFP4:
      return Layout{.width = 32, .levels = Fp4Levels(), .stored = Stored::kE8M0};
    case BlockType::kNVFP4:
      return Layout{.width = 16, .levels = Fp4Levels(), .stored = Stored::kE4M3};
    case BlockType::kQ2_K:
      return Layout{.width = 16, .steps = 3};
    case BlockType::kQ4_K:
      return Layout{.width = 32, .steps = 15};
    case BlockType::kQ5_K:
      return Layout{.width = 32, .steps = 31};
    case BlockType::kQ3_K:
      return Layout{.width = 16, .levels = Integers(-4, 3)};
    case BlockType::kQ6_K:
      return Layout{.width = 16, .levels = Integers(-32, 31)};
    case BlockType::kIQ4_XS:
      return Layout{.width = 32, .levels = Iq4Levels()};
    default:
      return std::nullopt;
  }
}

std::optional<Layout> IntegerLayout(const IntegerSpec& spec, int64_t cols) {
  Layout layout;
  layout.width = spec.group_size == 0 ? cols : spec.group_size;
  const int half = 1 << (spec.bits - 1);
  layout.levels = Integers(-half, half - 1);
  if (spec.scale_dtype == DType::kF16) layout.stored = Stored::kF16;
  if (spec.scale_dtype == DType::kBF16) layout.stored = Stored::kBF16;
  if (!spec.symmetric) {
    if (spec.bits > 4) return std::nullopt;  // 256 zero points take too long
    layout.zero_lo = -half;
    layout.zero_hi = half - 1;
  }
  return layout;
}

// The stored scales around a positive `scale`: the nearest and its two neighbours.
template <class F>
void ForStoredNear(Stored stored, double scale, F body) {
  const auto value = static_cast<float>(scale);
  const bool half = stored == Stored::kF16;
  if (stored == Stored::kReal || (!half && stored != Stored::kBF16)) return body(scale);
  const uint16_t bits = half ? F32ToF16(value) : F32ToBF16(value);
  const uint16_t largest = half ? 0x7BFF : 0x7F7F;
  const uint16_t first = bits == 0 ? 0 : static_cast<uint16_t>(std::min(bits, largest) - 1);
  for (uint16_t b = first; b <= std::min<int>(bits + 1, largest); ++b) {
    body(half ? F16ToF32(b) : BF16ToF32(b));
  }
}

// Error of one positive scale with the nearest levels.
double ErrorAt(const Weights& w, std::span<const double> levels, double scale) {
  double error = 0;
  for (size_t i = 0; i < w.x.size(); ++i) {
    double best = kInfinity;
    for (const double level : levels) best = std::min(best, std::abs(w.x[i] - scale * level));
    error += w.h[i] * best * best;
  }
  return error;
}

// The least error over the scales that one byte can hold.
double LeastOfByteScales(const Weights& w, std::span<const double> levels, Stored stored) {
  double largest = 0;
  for (const double x : w.x) largest = std::max(largest, std::abs(x));
  if (largest == 0) return 0;
  double least = kInfinity;
  if (stored == Stored::kE8M0) {
    const int top = std::ilogb(largest);
    for (int e = std::max(top - 12, -127); e <= std::min(top + 3, 127); ++e) {
      least = std::min(least, ErrorAt(w, levels, std::ldexp(1.0, e)));
    }
    return least;
  }
  for (int byte = 1; byte < 127; ++byte) {  // E4M3 with bias 7; 127 is no number
    const double mantissa = (byte & 7) / 8.0;
    const int exponent = byte >> 3;
    const double scale =
        std::ldexp(exponent == 0 ? mantissa : 1 + mantissa, std::max(exponent, 1) - 7);
    least = std::min(least, ErrorAt(w, levels, scale));
  }
  return std::min(least, w.hxx);
}

// A weight passes from one level to the next as 1 / scale grows.
struct Step {
  double at;
  double hx_step;   // change of sum h x level
  double hqq_step;  // change of sum h level^2
};

// The least error over all scales of one sign. Every weight starts at the level nearest to zero.
double LeastOfPositiveScales(const Weights& w, std::span<const double> levels, Stored stored,
                             std::vector<Step>* steps) {
  size_t zero = 0;
  for (size_t k = 1; k < levels.size(); ++k) {
    if (std::abs(levels[k]) < std::abs(levels[zero])) zero = k;
  }
  steps->clear();
  double hxq = 0, hqq = 0;
  for (size_t i = 0; i < w.x.size(); ++i) {
    const double x = w.x[i], h = w.h[i];
    size_t k = zero;
    const bool up = x > 0;
    // Without a level at zero, the first step may be at a negative 1 / scale: it is taken at once.
    hxq += h * x * levels[zero];
    hqq += h * levels[zero] * levels[zero];
    while (x != 0 && (up ? k + 1 < levels.size() : k > 0)) {
      const size_t next = up ? k + 1 : k - 1;
      const double at = std::max(0.0, (levels[k] + levels[next]) / 2 / x);
      steps->push_back({at, h * x * (levels[next] - levels[k]),
                        h * (levels[next] * levels[next] - levels[k] * levels[k])});
      k = next;
    }
  }
  std::sort(steps->begin(), steps->end(), [](const Step& a, const Step& b) { return a.at < b.at; });
  double least = w.hxx;
  const auto look = [&] {
    if (hqq <= 0 || hxq <= 0 || w.hxx - hxq * hxq / hqq >= least) return;
    ForStoredNear(stored, hxq / hqq,
                  [&](double s) { least = std::min(least, w.hxx - 2 * s * hxq + s * s * hqq); });
  };
  look();
  for (const Step& step : *steps) {
    hxq += step.hx_step;
    hqq += step.hqq_step;
    look();
  }
  return least;
}

double LeastOfScales(const Weights& w, const Layout& layout, std::vector<Step>* steps) {
  double least = kInfinity;
  for (int zero = layout.zero_lo; zero <= layout.zero_hi; ++zero) {
    std::vector<double> levels = layout.levels;
    for (double& level : levels) level -= zero;
    least = std::min(least, LeastOfPositiveScales(w, levels, layout.stored, steps));
    std::reverse(levels.begin(), levels.end());
    for (double& level : levels) level = -level;
    least = std::min(least, LeastOfPositiveScales(w, levels, layout.stored, steps));
  }
  return least;
}

// Sums of one choice of codes q: h, hq, hqq, hx, hxq, hxx.
struct Sums {
  double h = 0, q = 0, qq = 0, x = 0, xq = 0, xx = 0;

  double Error(double s, double o) const {
    return xx - 2 * s * xq - 2 * o * x + s * s * qq + 2 * s * o * q + o * o * h;
  }
  void KeepLeast(Stored stored, double* least) const {
    const double det = qq * h - q * q;
    if (det <= 1e-12 * qq * h) return;  // all codes are equal
    // The least-squares error is xx - reduction / det.
    const double reduction = h * xq * xq - 2 * q * x * xq + qq * x * x;
    if (reduction <= (xx - *least) * det || xq * h <= x * q) return;
    ForStoredNear(stored, (xq * h - x * q) / det, [&](double scale) {
      const double rest = (x - scale * q) / h;  // the best offset for this scale
      ForStoredNear(stored, std::abs(rest), [&](double offset) {
        *least = std::min(*least, Error(scale, std::copysign(offset, rest)));
      });
    });
  }
};

// All ways to give ascending codes 0 to 3 to sorted weights.
double LeastOfPartitions(const Weights& w, Stored stored) {
  const size_t n = w.x.size();
  std::vector<size_t> order(n);
  for (size_t i = 0; i < n; ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return w.x[a] < w.x[b]; });
  std::vector<double> h(n + 1), hx(n + 1);  // sums of the weights from i on
  for (size_t i = n; i-- > 0;) {
    h[i] = h[i + 1] + w.h[order[i]];
    hx[i] = hx[i + 1] + w.h[order[i]] * w.x[order[i]];
  }
  double least = w.hxx - hx[0] * hx[0] / h[0];  // one value for all
  Sums sums;
  sums.h = h[0];
  sums.x = hx[0];
  sums.xx = w.hxx;
  for (size_t a = 0; a <= n; ++a) {
    for (size_t b = a; b <= n; ++b) {
      for (size_t c = b; c <= n; ++c) {
        sums.q = h[a] + h[b] + h[c];
        sums.qq = h[a] + 3 * h[b] + 5 * h[c];
        sums.xq = hx[a] + hx[b] + hx[c];
        sums.KeepLeast(stored, &least);
      }
    }
  }
  return least;
}

// A weight x gets code k + 1 where the offset falls below x - (k + 1/2) scale: in units of the
// scale, once in every period between two whole numbers, at the same place in each.
struct Crossing {
  double place;    // in [0, 1)
  int64_t period;  // of the crossing from code 0 to 1
  size_t weight;
  int code;
};

// One scale, every offset from `top` down to `bottom`: codes grow as the offset falls.
void SweepOffsets(const Weights& w, int steps, double scale, double top, double bottom,
                  Stored stored, std::vector<Crossing>* crossings, double* least) {
  const auto first = static_cast<int64_t>(std::ceil(top / scale));
  const auto last = static_cast<int64_t>(std::floor(bottom / scale));
  crossings->clear();
  Sums sums;
  sums.xx = w.hxx;
  for (size_t i = 0; i < w.x.size(); ++i) {
    const double x = w.x[i], h = w.h[i], at = x / scale - 0.5, whole = std::floor(at);
    const auto period = static_cast<int64_t>(whole);
    const auto q = static_cast<int>(std::clamp<int64_t>(period - first + 1, 0, steps));
    crossings->push_back({at - whole, period, i, q});
    sums.h += h;
    sums.x += h * x;
    sums.q += h * q;
    sums.qq += h * q * q;
    sums.xq += h * x * q;
  }
  std::sort(crossings->begin(), crossings->end(),
            [](const Crossing& a, const Crossing& b) { return a.place > b.place; });
  sums.KeepLeast(stored, least);
  for (int64_t period = first - 1; period >= last; --period) {
    for (Crossing& crossing : *crossings) {
      if (crossing.period - crossing.code != period || crossing.code == steps) continue;
      const double h = w.h[crossing.weight];
      sums.q += h;
      sums.qq += h * (2 * crossing.code + 1);
      sums.xq += h * w.x[crossing.weight];
      ++crossing.code;
      sums.KeepLeast(stored, least);
    }
  }
}

double LeastOfAffine(const Weights& w, const Layout& layout, std::vector<Crossing>* crossings) {
  if (w.x.empty()) return 0;
  if (layout.steps == 3) return LeastOfPartitions(w, layout.stored);
  const auto [min, max] = std::minmax_element(w.x.begin(), w.x.end());
  const double range = *max - *min;
  if (range == 0) return 0;
  double least = kInfinity;
  constexpr int kScales = 160;
  for (int i = 0; i <= kScales; ++i) {  // 0.1 clips outliers, 2 hits a few weights well
    const double scale = range / layout.steps * 0.1 * std::pow(20.0, double(i) / kScales);
    SweepOffsets(w, layout.steps, scale, *max, *min - scale, layout.stored, crossings, &least);
  }
  return least;
}

}  // namespace

std::optional<double> LeastError(const Encoding& encoding, const float* w, int64_t rows,
                                 int64_t cols, const float* importance) {
  std::optional<Layout> layout;
  if (encoding.kind == Encoding::Kind::kBlock) {
    if (cols % TraitsOf(encoding.block).elements != 0) return std::nullopt;
    layout = BlockLayout(encoding.block);
  }
  if (encoding.kind == Encoding::Kind::kInteger) layout = IntegerLayout(encoding.integer, cols);
  if (!layout || cols % layout->width != 0) return std::nullopt;
  const bool byte_scale = layout->stored == Stored::kE8M0 || layout->stored == Stored::kE4M3;
  std::vector<Step> steps;
  std::vector<Crossing> crossings;
  double total = 0;
  for (int64_t start = 0; start < rows * cols; start += layout->width) {
    Weights run;
    for (int64_t i = start; i < start + layout->width; ++i) {
      run.Add(w[i], importance == nullptr ? 1 : importance[i % cols]);
    }
    double least = layout->steps > 0 ? LeastOfAffine(run, *layout, &crossings)
                   : byte_scale      ? LeastOfByteScales(run, layout->levels, layout->stored)
                                     : LeastOfScales(run, *layout, &steps);
    total += std::max(0.0, least);
  }
  return total;
}

}  // namespace pennyweight
