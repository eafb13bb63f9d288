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
HWY_INLINE void ScoreOddHalf(const float* a, const float* b, const float* odd_a, const float* odd_b,
                             float* out) {
  constexpr int n = kStates<kDims>;
  for (int i = 0; i < n; ++i) {
    const V first = LoadCol(a, i), odd_first = LoadCol(odd_a, i);
    for (int k = 0; k < n; ++k) {
      StoreCol(hn::Max(hn::Add(first, LoadCol(odd_b, k)), hn::Add(odd_first, LoadCol(b, k))), out,
               i * n + k);
    }
  }
}

// The highest score of any second half in a run, for each of N tables of them.
template <int N>
HWY_INLINE void BestSeconds(const CodebookIndex& index, const CodebookIndex::Run& run,
                            const float (&tables)[N][kHalfSize], V (&best)[N]) {
  const LaneTag d;
  const CodebookIndex::Pair* pair = index.second.data() + run.begin;
  const CodebookIndex::Pair* end = index.second.data() + run.end;
  for (int t = 0; t < N; ++t) {
    best[t] = hn::Max(hn::Load(d, tables[t] + pair->first), hn::Load(d, tables[t] + pair->second));
  }
  for (++pair; pair != end; ++pair) {
    const uint32_t first = pair->first, second = pair->second;
    for (int t = 0; t < N; ++t) {
      best[t] = hn::Max(best[t], hn::Load(d, tables[t] + first));
      best[t] = hn::Max(best[t], hn::Load(d, tables[t] + second));
    }
  }
}

// The sum of a run's first quarters. `quarters` are those of one ScoreQuarters.
HWY_INLINE V FirstHalf(const CodebookIndex::Run& run, const float* quarters) {
  return hn::Add(hn::Load(LaneTag(), quarters + run.quarters[0]),
                 hn::Load(LaneTag(), quarters + kQuarterStates * kLanes + run.quarters[1]));
}
HWY_INLINE const float* Quarter(const float* quarters, int q) {
  return quarters + q * kQuarterStates * kLanes;
}

// The highest score of any word under each of N scales. u may be signed.
template <int kDims, int N>
HWY_INLINE void BestScores(const CodebookIndex& index, const float* u, const float* h,
                           const V (&scales)[N], V (&best)[N]) {
  HWY_ALIGN float quarters[N][kQuartersSize];
  HWY_ALIGN float seconds[N][kHalfSize];
  for (int t = 0; t < N; ++t) {
    ScoreQuarters<kDims>(index, u, h, scales[t], quarters[t]);
    ScoreHalf<kDims>(Quarter(quarters[t], 2), Quarter(quarters[t], 3), seconds[t]);
  }
  V top[N];
  for (V& v : top) v = Splat(-3e38f);
  for (const CodebookIndex::Run& run : index.runs) {
    V m[N];
    BestSeconds(index, run, seconds, m);
    for (int t = 0; t < N; ++t)
      top[t] = hn::Max(top[t], hn::Add(m[t], FirstHalf(run, quarters[t])));
  }
  for (int t = 0; t < N; ++t) best[t] = top[t];
}

// Finding the word itself: the low bits of a second half's score give way to the number of its
// state, so that a maximum carries along where it came from. Scores keep 17 bits of mantissa:
// words that are closer than that are equally good.
inline constexpr int32_t kStateMask = 127;
HWY_INLINE void TagStates(int n, float* scores) {
  const LaneTag d;
  const IntTag di;
  for (int i = 0; i < n; ++i) {
    const VI bits = hn::AndNot(hn::Set(di, kStateMask), hn::BitCast(di, LoadCol(scores, i)));
    StoreCol(hn::BitCast(d, hn::Or(bits, hn::Set(di, i))), scores, i);
  }
}

// A word: the number of its run, the tagged score of its second half, and its score.
struct FoundV {
  V score, run, tagged;
};
HWY_INLINE FoundV NothingFound() {
  return {Splat(-3e38f), hn::Zero(LaneTag()), hn::Zero(LaneTag())};
}
HWY_INLINE void Raise(V first, V tagged, V run, FoundV* best) {
  const V score = hn::Add(first, tagged);
  const VMask better = hn::Gt(score, best->score);
  best->score = hn::Max(best->score, score);
  best->run = hn::IfThenElse(better, run, best->run);
  best->tagged = hn::IfThenElse(better, tagged, best->tagged);
}
// The place of the word in index.entry and index.values.
HWY_INLINE VI PlaceOf(const CodebookIndex& index, const FoundV& found) {
  const IntTag di;
  const VI state = hn::And(hn::BitCast(di, found.tagged), hn::Set(di, kStateMask));
  const VI run = hn::ConvertTo(di, found.run);
  const VI row = hn::Add(hn::ShiftLeft<7>(run), state);
  return hn::GatherIndex(di, index.places.data(), row);
}

// Value j of the words at `places`.
HWY_INLINE V ValueOf(const CodebookIndex& index, VI places, int j) {
  const float* values = index.values.data() + static_cast<size_t>(j) * index.entry.size();
  return hn::GatherIndex(LaneTag(), values, places);
}

// The best word under each of N scales; u may be signed.
template <int kDims, int N>
HWY_INLINE void FindWords(const CodebookIndex& index, const float* u, const float* h,
                          const V (&scales)[N], FoundV (&best)[N]) {
  HWY_ALIGN float quarters[N][kQuartersSize];
  HWY_ALIGN float seconds[N][kHalfSize];
  for (int t = 0; t < N; ++t) {
    ScoreQuarters<kDims>(index, u, h, scales[t], quarters[t]);
    ScoreHalf<kDims>(Quarter(quarters[t], 2), Quarter(quarters[t], 3), seconds[t]);
    TagStates(kStates<kDims> * kStates<kDims>, seconds[t]);
    best[t] = NothingFound();
  }
  V number = hn::Zero(LaneTag());
  for (const CodebookIndex::Run& run : index.runs) {
    V top[N];
    BestSeconds(index, run, seconds, top);
    for (int t = 0; t < N; ++t) Raise(FirstHalf(run, quarters[t]), top[t], number, &best[t]);
    number = hn::Add(number, Splat(1.0f));
  }
}

// The best word with all signs right, and with one of them wrong (in lanes of `odd_lanes`;
// elsewhere it is the first again).
struct FoundPairV {
  FoundV plain, odd;
};
template <int kDims>
HWY_INLINE FoundPairV FindWordPair(const CodebookIndex& index, const float* u, const float* h,
                                   V scale, VMask odd_lanes) {
  const LaneTag d;
  HWY_ALIGN float plain[kQuartersSize];
  HWY_ALIGN float odd[kQuartersSize];
  HWY_ALIGN float seconds[2][kHalfSize];  // all signs right; one wrong
  ScoreQuarters<kDims>(index, u, h, scale, plain);
  ScoreOddQuarters<kDims>(index, u, odd_lanes, plain, odd);
  ScoreHalf<kDims>(Quarter(plain, 2), Quarter(plain, 3), seconds[0]);
  ScoreOddHalf<kDims>(Quarter(plain, 2), Quarter(plain, 3), Quarter(odd, 2), Quarter(odd, 3),
                      seconds[1]);
  for (float* table : seconds) TagStates(kStates<kDims> * kStates<kDims>, table);
  FoundPairV best{NothingFound(), NothingFound()};
  V number = hn::Zero(d);
  for (const CodebookIndex::Run& run : index.runs) {
    V top[2];
    BestSeconds(index, run, seconds, top);
    const auto first = [&](const float* a, const float* b) {
      return hn::Add(hn::Load(d, a + run.quarters[0]),
                     hn::Load(d, Quarter(b, 1) + run.quarters[1]));
    };
    const V sum = first(plain, plain);
    Raise(sum, top[0], number, &best.plain);
    Raise(sum, top[1], number, &best.odd);
    Raise(hn::Max(first(plain, odd), first(odd, plain)), top[0], number, &best.odd);
    number = hn::Add(number, Splat(1.0f));
  }
  return best;
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
