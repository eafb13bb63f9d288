// The best words of a codebook for weights in lanes: an exhaustive search, which the cut of words
// into halves (quant/iq_index.h) makes cheap enough to need no lists of neighbours.
//
// With x the weights' magnitudes, h their importance and g the values of a word, the squared error
// of the word under a scale s is
//   sum h (x - s g)^2 = sum h x^2 - s score,   score = sum (u - s h g) g,   u = 2 h x,
// so the best word is the one of highest score. Signs come from the weights. Where a format stores
// seven signs for eight values their number of minus signs must be even: of an odd number one
// value, whichever costs least, takes the wrong sign, and its u counts negative.
#include "quant/iq_index.h"
#include "quant/lanes-inl.h"

#if defined(PENNYWEIGHT_QUANT_IQ_SEARCH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_IQ_SEARCH_INL_H_
#undef PENNYWEIGHT_QUANT_IQ_SEARCH_INL_H_
#else
#define PENNYWEIGHT_QUANT_IQ_SEARCH_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {

using IntTag = hn::RebindToSigned<LaneTag>;
using VI = hn::Vec<IntTag>;

// Floats of the score tables: 4 quarters of up to 9 states, 81 states of half a word.
inline constexpr int64_t kQuarterStates = 9;
inline constexpr int64_t kQuartersSize = 4 * kQuarterStates * kLanes;
inline constexpr int64_t kHalfSize = kQuarterStates * kQuarterStates * kLanes;

template <int kDims>
inline constexpr int kStates = kDims == 8 ? 9 : 8;
template <int kDims>
inline constexpr int kLevels = kDims == 8 ? 3 : 8;

// Scores of the states of a word's quarters: out[4][kQuarterStates]. u[kDims] in lanes.
template <int kDims>
HWY_INLINE void ScoreQuarters(const CodebookIndex& index, const float* u, const float* h, V scale,
                              float* out) {
  for (int q = 0; q < 4; ++q) {
    float* to = out + q * kQuarterStates * kLanes;
    const auto score = [&](int j, int k) {
      const V g = Splat(index.level_values[k]);
      return hn::Mul(hn::Sub(LoadCol(u, j), hn::Mul(hn::Mul(scale, Splat(h[j])), g)), g);
    };
    if constexpr (kDims == 8) {
      V b[3];
      for (int k = 0; k < 3; ++k) b[k] = score(2 * q + 1, k);
      for (int k = 0; k < 3; ++k) {
        const V a = score(2 * q, k);
        for (int m = 0; m < 3; ++m) StoreCol(hn::Add(a, b[m]), to, 3 * k + m);
      }
    } else {
      for (int k = 0; k < 8; ++k) StoreCol(score(q, k), to, k);
    }
  }
}

// The same with one wrong sign in each quarter, the best one: in lanes of `odd`. Elsewhere the
// plain scores. `plain` are those.
template <int kDims>
HWY_INLINE void ScoreOddQuarters(const CodebookIndex& index, const float* u, VMask odd,
                                 const float* plain, float* out) {
  for (int q = 0; q < 4; ++q) {
    float* to = out + q * kQuarterStates * kLanes;
    const auto loss = [&](int j, int k) {  // of a wrong sign
      const V g = Splat(2 * index.level_values[k]);
      return hn::IfThenElseZero(odd, hn::Mul(LoadCol(u, j), g));
    };
    const float* from = plain + q * kQuarterStates * kLanes;
    if constexpr (kDims == 8) {
      V b[3];
      for (int k = 0; k < 3; ++k) b[k] = loss(2 * q + 1, k);
      for (int k = 0; k < 3; ++k) {
        const V a = loss(2 * q, k);
        for (int m = 0; m < 3; ++m) {
          StoreCol(hn::Sub(LoadCol(from, 3 * k + m), hn::Min(a, b[m])), to, 3 * k + m);
        }
      }
    } else {
      for (int k = 0; k < 8; ++k) StoreCol(hn::Sub(LoadCol(from, k), loss(q, k)), to, k);
    }
  }
}

// Scores of all states of a half: of its two quarters' plain scores a and b.
template <int kDims>
HWY_INLINE void ScoreHalf(const float* a, const float* b, float* out) {
  constexpr int n = kStates<kDims>;
  for (int i = 0; i < n; ++i) {
    const V first = LoadCol(a, i);
    for (int k = 0; k < n; ++k) StoreCol(hn::Add(first, LoadCol(b, k)), out, i * n + k);
  }
}
// With one wrong sign: in either quarter.
template <int kDims>
HWY_INLINE void ScoreOddHalf(const float* a, const float* b, const float* odd_a,
                             const float* odd_b, float* out) {
  constexpr int n = kStates<kDims>;
  for (int i = 0; i < n; ++i) {
    const V first = LoadCol(a, i), odd_first = LoadCol(odd_a, i);
    for (int k = 0; k < n; ++k) {
      StoreCol(hn::Max(hn::Add(first, LoadCol(odd_b, k)), hn::Add(odd_first, LoadCol(b, k))), out,
               i * n + k);
    }
  }
}

// The highest score of any word under each of two scales. u may be signed.
template <int kDims>
HWY_INLINE void BestScores(const CodebookIndex& index, const float* u, const float* h,
                           const V (&scales)[2], V (&best)[2]) {
  HWY_ALIGN float quarters[2][kQuartersSize];
  HWY_ALIGN float seconds[2][kHalfSize];
  for (int t = 0; t < 2; ++t) {
    ScoreQuarters<kDims>(index, u, h, scales[t], quarters[t]);
    ScoreHalf<kDims>(quarters[t] + 2 * kQuarterStates * kLanes,
                     quarters[t] + 3 * kQuarterStates * kLanes, seconds[t]);
  }
  const LaneTag d;
  const float* b0 = quarters[0] + kQuarterStates * kLanes;
  const float* b1 = quarters[1] + kQuarterStates * kLanes;
  const uint16_t* second = index.second.data();
  V top0 = Splat(-1e30f), top1 = top0;
  for (const CodebookIndex::Run& run : index.runs) {
    V m0 = hn::Load(d, seconds[0] + second[run.begin]);
    V m1 = hn::Load(d, seconds[1] + second[run.begin]);
    for (int i = run.begin + 1; i < run.end; ++i) {
      m0 = hn::Max(m0, hn::Load(d, seconds[0] + second[i]));
      m1 = hn::Max(m1, hn::Load(d, seconds[1] + second[i]));
    }
    const auto first = [&](const float* a, const float* b) {
      return hn::Add(hn::Load(d, a + run.quarters[0]), hn::Load(d, b + run.quarters[1]));
    };
    top0 = hn::Max(top0, hn::Add(m0, first(quarters[0], b0)));
    top1 = hn::Max(top1, hn::Add(m1, first(quarters[1], b1)));
  }
  best[0] = top0;
  best[1] = top1;
}

// A word (its place in the index, as a float) and its score.
struct FoundV {
  V score, position;
};
HWY_INLINE void Raise(V score, V position, FoundV* best) {
  const VMask better = hn::Gt(score, best->score);
  best->score = hn::Max(best->score, score);
  best->position = hn::IfThenElse(better, position, best->position);
}
HWY_INLINE FoundV BestOfRun(const CodebookIndex& index, const CodebookIndex::Run& run,
                            const float* second) {
  const LaneTag d;
  FoundV best{hn::Load(d, second + index.second[run.begin]), Splat(index.position[run.begin])};
  for (size_t i = run.begin + 1u; i < run.end; ++i) {
    Raise(hn::Load(d, second + index.second[i]), Splat(index.position[i]), &best);
  }
  return best;
}

// The best word; u may be signed.
template <int kDims>
HWY_INLINE FoundV FindWord(const CodebookIndex& index, const float* u, const float* h, V scale) {
  HWY_ALIGN float quarters[kQuartersSize];
  HWY_ALIGN float seconds[kHalfSize];
  const auto quarter = [&](int q) { return quarters + q * kQuarterStates * kLanes; };
  ScoreQuarters<kDims>(index, u, h, scale, quarters);
  ScoreHalf<kDims>(quarter(2), quarter(3), seconds);
  FoundV best{Splat(-1e30f), hn::Zero(LaneTag())};
  for (const CodebookIndex::Run& run : index.runs) {
    const FoundV found = BestOfRun(index, run, seconds);
    const V first = hn::Add(LoadCol(quarter(0) + run.quarters[0], 0),
                            LoadCol(quarter(1) + run.quarters[1], 0));
    Raise(hn::Add(first, found.score), found.position, &best);
  }
  return best;
}

// The best word with all signs right, and with one of them wrong (in lanes of `odd`; elsewhere it
// is the first again).
struct FoundPairV {
  FoundV plain, odd;
};
template <int kDims>
HWY_INLINE FoundPairV FindWordPair(const CodebookIndex& index, const float* u, const float* h,
                                   V scale, VMask odd_lanes) {
  HWY_ALIGN float plain[kQuartersSize];
  HWY_ALIGN float odd[kQuartersSize];
  HWY_ALIGN float seconds[kHalfSize];
  HWY_ALIGN float odd_seconds[kHalfSize];
  const auto at = [](float* from, int q) { return from + q * kQuarterStates * kLanes; };
  ScoreQuarters<kDims>(index, u, h, scale, plain);
  ScoreOddQuarters<kDims>(index, u, odd_lanes, plain, odd);
  ScoreHalf<kDims>(at(plain, 2), at(plain, 3), seconds);
  ScoreOddHalf<kDims>(at(plain, 2), at(plain, 3), at(odd, 2), at(odd, 3), odd_seconds);
  const FoundV none{Splat(-1e30f), hn::Zero(LaneTag())};
  FoundPairV best{none, none};
  for (const CodebookIndex::Run& run : index.runs) {
    const FoundV found = BestOfRun(index, run, seconds);
    const FoundV found_odd = BestOfRun(index, run, odd_seconds);
    const auto first = [&](float* a, float* b) {
      return hn::Add(LoadCol(at(a, 0) + run.quarters[0], 0), LoadCol(at(b, 1) + run.quarters[1], 0));
    };
    const V sum = first(plain, plain);
    const V odd_sum = hn::Max(first(plain, odd), first(odd, plain));
    Raise(hn::Add(sum, found.score), found.position, &best.plain);
    Raise(hn::Add(sum, found_odd.score), found_odd.position, &best.odd);
    Raise(hn::Add(odd_sum, found.score), found.position, &best.odd);
  }
  return best;
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
