// The search for the scale (and offset, or zero point) of one block of weights: what the types of
// one level share. One block per lane.
//
// A trial is a scale (and offset) from a short list, relative to the extremes of the block. One
// pass over the columns judges several trials side by side, so that the additions of one hide
// behind those of another. A trial gives codes, and sums over the codes tell the least-squares
// scale for them and what that leaves of the error, without another pass. The best trial's scale is
// taken, and its own codes are fitted once or twice more. Fine codes leave so little beside the
// sums of squares that sums of what they miss are made instead. The lists (search_trials.h) were
// chosen greedily, each entry the one that lowered the error of the best so far most: their
// beginning is a list too, for a shorter search.
#include <algorithm>

#include "quant/effort.h"
#include "quant/lanes-inl.h"
#include "quant/search_trials.h"

#if defined(PENNYWEIGHT_QUANT_LANE_SEARCH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_LANE_SEARCH_INL_H_
#undef PENNYWEIGHT_QUANT_LANE_SEARCH_INL_H_
#else
#define PENNYWEIGHT_QUANT_LANE_SEARCH_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {

// Trials of one pass: as many as registers hold the sums of. Each has its own, so that the number
// does not change a result.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
constexpr int kTrialsAtOnce = 4;
#else
constexpr int kTrialsAtOnce = 2;
#endif

struct LowHigh {
  V low, high;
};

HWY_INLINE LowHigh FindExtremes(const float* w, int64_t n) {
  // Two of each, so that their latencies overlap.
  LowHigh a{LoadCol(w, n - 1), LoadCol(w, n - 1)}, b = a;
  for (int64_t i = 0; i + 2 <= n; i += 2) {
    a.low = hn::Min(a.low, LoadCol(w, i));
    a.high = hn::Max(a.high, LoadCol(w, i));
    b.low = hn::Min(b.low, LoadCol(w, i + 1));
    b.high = hn::Max(b.high, LoadCol(w, i + 1));
  }
  return {hn::Min(a.low, b.low), hn::Max(a.high, b.high)};
}

// What normalises the block in each lane, given the least and the largest of its weights: x = w *
// up.
struct Normal {
  explicit Normal(const LowHigh& w) {
    up = Normalizer(hn::Max(hn::Abs(w.low), hn::Abs(w.high)));
    down = hn::Div(Splat(1.0f), up);
    // Of the two zeros always the positive one, so that which of them was found does not matter.
    low = hn::Add(hn::Mul(w.low, up), hn::Zero(LaneTag()));
    high = hn::Add(hn::Mul(w.high, up), hn::Zero(LaneTag()));
  }
  // A normalised scale or offset as it is stored, normalised again.
  V Stored(DType dtype, V v) const { return hn::Mul(RoundToDType(dtype, hn::Mul(v, down)), up); }
  V Top() const { return hn::Max(hn::Abs(low), hn::Abs(high)); }
  // The weight of largest magnitude, the positive one where there are two.
  V SignedTop() const { return hn::IfThenElse(hn::Gt(hn::Neg(low), high), low, high); }

  V up, down;
  V low, high;  // of x
};

// Weights of one block in the lanes of one vector, i in [0, n), with importance h[i]. Normalised as
// they are loaded, weights of any size are safe to square.
struct Columns : Normal {
  Columns(const float* w_in, const float* h_in, int64_t n_in)
      : Normal(FindExtremes(w_in, n_in)), w(w_in), h(h_in), n(n_in) {}
  V At(int64_t i) const { return hn::Mul(LoadCol(w, i), up); }

  const float* w;
  const float* h;
  int64_t n;
};

// ---- value = scale * q, q integer in [lo, hi] ----

struct SymmetricTrial {
  V inverse;  // of the scale
  V lo, hi;
};

// The best trial so far: sums over its codes. Its scale is xq / qq, and it leaves
// sum h x^2 - xq^2 / qq of the error.
struct SymmetricBest {
  V xq;    // sum h x q
  V qq;    // sum h q^2
  V zero;  // the trial's zero point, where a type has them

  static SymmetricBest None() {
    return {hn::Zero(LaneTag()), hn::Set(LaneTag(), 1.0f), hn::Zero(LaneTag())};
  }

  V Scale() const { return DivOrZero(xq, qq); }
  void Offer(V xq_in, V qq_in, V zero_in) {
    const V ours = hn::Mul(hn::Mul(xq_in, xq_in), qq);
    const V theirs = hn::Mul(hn::Mul(xq, xq), qq_in);
    const VMask better = hn::Gt(ours, theirs);
    xq = hn::IfThenElse(better, xq_in, xq);
    qq = hn::IfThenElse(better, qq_in, qq);
    zero = hn::IfThenElse(better, zero_in, zero);
  }
};

template <int kCount>
HWY_INLINE void SumTrials(const Columns& b, const SymmetricTrial* trials, V* xq, V* qq) {
  V a[kCount], c[kCount];
  for (int k = 0; k < kCount; ++k) a[k] = c[k] = hn::Zero(LaneTag());
  for (int64_t i = 0; i < b.n; ++i) {
    const V x = b.At(i);
    const V h = Splat(b.h[i]);
    const V hx = hn::Mul(h, x);
    for (int k = 0; k < kCount; ++k) {
      const SymmetricTrial& t = trials[k];
      const V q = NearestV(ClampV(hn::Mul(x, t.inverse), t.lo, t.hi));
      a[k] = hn::Add(a[k], hn::Mul(hx, q));
      c[k] = hn::Add(c[k], hn::Mul(hn::Mul(h, q), q));
    }
  }
  for (int k = 0; k < kCount; ++k) {
    xq[k] = a[k];
    qq[k] = c[k];
  }
}

// Of each trial sum h e^2 and sum h e q, e = x - scale q; scales[k] is the inverse of
// trials[k].inverse.
template <int kCount>
HWY_INLINE void SumErrors(const Columns& b, const SymmetricTrial* trials, const V* scales, V* ee,
                          V* eq) {
  V square[kCount], cross[kCount];
  for (int k = 0; k < kCount; ++k) square[k] = cross[k] = hn::Zero(LaneTag());
  for (int64_t i = 0; i < b.n; ++i) {
    const V x = b.At(i);
    const V h = Splat(b.h[i]);
    for (int k = 0; k < kCount; ++k) {
      const SymmetricTrial& t = trials[k];
      const V q = NearestV(ClampV(hn::Mul(x, t.inverse), t.lo, t.hi));
      const V e = hn::Sub(x, hn::Mul(scales[k], q));
      const V he = hn::Mul(h, e);
      square[k] = hn::Add(square[k], hn::Mul(he, e));
      cross[k] = hn::Add(cross[k], hn::Mul(he, q));
    }
  }
  for (int k = 0; k < kCount; ++k) {
    ee[k] = square[k];
    eq[k] = cross[k];
  }
}

// Offers `count` trials, make(k) being the k-th: {SymmetricTrial, zero point}.
template <class Make>
HWY_INLINE void OfferTrials(const Columns& b, int count, SymmetricBest* best, const Make& make) {
  for (int first = 0; first < count; first += kTrialsAtOnce) {
    SymmetricTrial trials[kTrialsAtOnce];
    V zeros[kTrialsAtOnce], xq[kTrialsAtOnce], qq[kTrialsAtOnce];
    for (int k = 0; k < kTrialsAtOnce; ++k) {
      trials[k] = make(std::min(first + k, count - 1), &zeros[k]);
    }
    SumTrials<kTrialsAtOnce>(b, trials, xq, qq);
    for (int k = 0; k < kTrialsAtOnce; ++k) best->Offer(xq[k], qq[k], zeros[k]);
  }
}

// Codes of the best scale, and their own best scale; `range` gives lo and hi of a zero point.
template <class Range>
HWY_INLINE void Refit(const Columns& b, int times, SymmetricBest* best, const Range& range) {
  for (int k = 0; k < times; ++k) {
    SymmetricTrial trial{DivOrZero(best->qq, best->xq), hn::Zero(LaneTag()), hn::Zero(LaneTag())};
    range(best->zero, &trial.lo, &trial.hi);
    V xq, qq;
    SumTrials<1>(b, &trial, &xq, &qq);
    best->Offer(xq, qq, best->zero);
  }
}

// The scale of coarse codes [lo, hi], hi = -lo - 1, of either sign: the largest weight at
// list[k], a code of the end that has one more. Not yet as stored.
HWY_INLINE V SearchCoarse(const Columns& b, float lo, float hi, Effort effort) {
  const V vlo = Splat(lo), vhi = Splat(hi), none = hn::Zero(LaneTag());
  const auto range = [&](V, V* from, V* to) { *from = vlo, *to = vhi; };
  const auto offer = [&](V unit, const TrialList& list, SymmetricBest* best) {
    OfferTrials(b, list.count, best, [&](int k, V* zero) {
      *zero = none;
      return SymmetricTrial{hn::Mul(unit, Splat(list.at[k])), vlo, vhi};
    });
  };
  SymmetricBest best = SymmetricBest::None();
  if (b.n > kLongBlock) {
    offer(DivOrZero(vlo, b.SignedTop()), LongTrials(effort), &best);
    offer(DivOrZero(best.qq, best.xq), NearTrials(), &best);
  } else {
    const int top = static_cast<int>(-lo);
    offer(DivOrZero(Splat(-1.0f), b.SignedTop()), SymmetricTrials(top, b.n, effort), &best);
  }
  Refit(b, Refits(effort), &best, range);
  return best.Scale();
}

// The best scale so far, as stored, its zero point, and the error that it leaves.
struct FineBest {
  V scale, zero, error;

  void Offer(V scale_in, V zero_in, V error_in) {
    const VMask better = hn::Lt(error_in, error);
    scale = hn::IfThenElse(better, scale_in, scale);
    zero = hn::IfThenElse(better, zero_in, zero);
    error = hn::IfThenElse(better, error_in, error);
  }
};

// Judges kCount scales (of either sign, not as stored) with their zero points. What is offered is
// the least-squares scale for the codes of each, as stored: with d its distance from the trial's,
// it leaves sum h e^2 - 2 d sum h e q + d^2 sum h q^2. The last sum is sum h x^2 / scale^2 but for
// the little that fine codes miss.
template <int kCount, class Range>
HWY_INLINE void OfferFine(const Columns& b, DType dtype, V sum_hxx, const V* scales, const V* zeros,
                          const Range& range, FineBest* best) {
  SymmetricTrial trials[kCount];
  V ee[kCount], eq[kCount];
  for (int k = 0; k < kCount; ++k) {
    trials[k].inverse = DivOrZero(Splat(1.0f), scales[k]);
    range(zeros[k], &trials[k].lo, &trials[k].hi);
  }
  SumErrors<kCount>(b, trials, scales, ee, eq);
  for (int k = 0; k < kCount; ++k) {
    const V inverse = trials[k].inverse;
    const V qq = hn::Mul(hn::Mul(sum_hxx, inverse), inverse);
    const V stored = b.Stored(dtype, hn::Add(scales[k], DivOrZero(eq[k], qq)));
    const V d = hn::Sub(stored, scales[k]);
    const V gain = hn::Mul(d, hn::Sub(hn::Add(eq[k], eq[k]), hn::Mul(d, qq)));
    best->Offer(stored, zeros[k], hn::Sub(ee[k], gain));
  }
}

// The scale as stored, and zero point, of fine codes among make(k) = {scale, zero}, and refits.
template <class Make, class Range>
HWY_INLINE FineBest SearchFine(const Columns& b, DType dtype, Effort effort, const Make& make,
                               const Range& range) {
  V sum_hxx = hn::Zero(LaneTag());
  for (int64_t i = 0; i < b.n; ++i) {
    const V x = b.At(i);
    sum_hxx = hn::Add(sum_hxx, hn::Mul(hn::Mul(Splat(b.h[i]), x), x));
  }
  FineBest best{hn::Zero(LaneTag()), hn::Zero(LaneTag()), Splat(hwy::HighestValue<float>())};
  const int count = FineTrialCount(effort);
  for (int first = 0; first < count; first += kTrialsAtOnce) {
    V scales[kTrialsAtOnce], zeros[kTrialsAtOnce];
    for (int k = 0; k < kTrialsAtOnce; ++k) {
      make(std::min(first + k, count - 1), &scales[k], &zeros[k]);
    }
    OfferFine<kTrialsAtOnce>(b, dtype, sum_hxx, scales, zeros, range, &best);
  }
  for (int k = 0; k < Refits(effort); ++k) {
    const V scale = best.scale, zero = best.zero;
    OfferFine<1>(b, dtype, sum_hxx, &scale, &zero, range, &best);
  }
  return best;
}

// The scale as stored of fine codes [lo, hi].
HWY_INLINE V SearchFineSymmetric(const Columns& b, float lo, float hi, DType dtype, Effort effort) {
  const V vlo = Splat(lo), vhi = Splat(hi);
  const V top = lo == -hi ? hn::Neg(b.Top()) : b.SignedTop();
  return SearchFine(
             b, dtype, effort,
             [&](int k, V* scale, V* zero) {
               *scale = hn::Mul(top, Splat(-1.0f / FineTrial(k, static_cast<int>(-lo), b.n)));
               *zero = hn::Zero(LaneTag());
             },
             [&](V, V* from, V* to) { *from = vlo, *to = vhi; })
      .scale;
}

// ---- value = scale * (q - zero), q and zero integers in [lo, hi] ----

struct ZeroPoint {
  V scale;  // as stored, normalised
  V zero;
};

// Scale and zero point of codes that span from low + a range to high - b range, range being that of
// the weights and 0; lo and hi are the ends of the codes.
struct Span {
  Span(const Columns& b, float lo_in, float hi_in)
      : lo(Splat(lo_in)),
        hi(Splat(hi_in)),
        low(hn::Min(b.low, hn::Zero(LaneTag()))),
        range(hn::Sub(hn::Max(b.high, hn::Zero(LaneTag())), low)),
        levels(hi_in - lo_in) {}
  V Scale(float a, float c) const { return hn::Mul(range, Splat((1 - a - c) / levels)); }
  V Zero(V scale, float a) const { return ZeroOf(hn::Add(low, hn::Mul(range, Splat(a))), scale); }
  V ZeroOf(V from, V scale) const {
    return NearestV(ClampV(hn::Sub(lo, DivOrZero(from, scale)), lo, hi));
  }
  void Codes(V zero, V* from, V* to) const {
    *from = hn::Sub(lo, zero);
    *to = hn::Sub(hi, zero);
  }

  V lo, hi, low, range;
  float levels;
};

HWY_INLINE ZeroPoint SearchZeroPoint(const Columns& b, float lo, float hi, DType dtype,
                                     Effort effort) {
  const Span span(b, lo, hi);
  const auto codes = [&](V zero, V* from, V* to) { span.Codes(zero, from, to); };
  if (hi - lo >= 2 * kFineCodes - 1) {
    const auto make = [&](int k, V* scale, V* zero) {
      const int top = static_cast<int>(hi - lo);
      const float a = (1 - span.levels / FineTrial(k, top, b.n)) / 2;
      *scale = span.Scale(a, a);
      *zero = span.Zero(*scale, a);
    };
    const FineBest best = SearchFine(b, dtype, effort, make, codes);
    return {best.scale, best.zero};
  }
  SymmetricBest best = SymmetricBest::None();
  const auto trial_of = [&](V inverse, V zero) {
    SymmetricTrial trial{inverse, zero, zero};
    codes(zero, &trial.lo, &trial.hi);
    return trial;
  };
  if (b.n <= kLongBlock) {
    const EndsList list = ZeroPointTrials(static_cast<int>(hi - lo), b.n, effort);
    OfferTrials(b, list.count, &best, [&](int k, V* zero) {
      const V scale = span.Scale(list.at[k].low, list.at[k].high);
      *zero = span.Zero(scale, list.at[k].low);
      return trial_of(DivOrZero(Splat(1.0f), scale), *zero);
    });
  } else {
    // Clipped at one distance from zero on either side: of outliers there may be one.
    const TrialList list = LongTrials(effort);
    OfferTrials(b, list.count, &best, [&](int k, V* zero) {
      const V reach = hn::Mul(b.Top(), Splat(1 / list.at[k]));
      const V from = hn::Max(span.low, hn::Neg(reach));
      const V to = hn::Min(hn::Add(span.low, span.range), reach);
      const V scale = hn::Mul(hn::Sub(to, from), Splat(1 / span.levels));
      *zero = span.ZeroOf(from, scale);
      return trial_of(DivOrZero(Splat(1.0f), scale), *zero);
    });
    for (int round = 0; round < 2; ++round) {  // and what lies between those
      const V inverse = DivOrZero(best.qq, best.xq), center = best.zero;
      OfferTrials(b, 4, &best, [&](int k, V* zero) {
        constexpr float kFactors[] = {0.96f, 1.04f, 1, 1}, kSteps[] = {0, 0, -1, 1};
        *zero = ClampV(hn::Add(center, Splat(kSteps[k])), span.lo, span.hi);
        return trial_of(hn::Mul(inverse, Splat(kFactors[k])), *zero);
      });
    }
  }
  Refit(b, Refits(effort), &best, codes);
  return {b.Stored(dtype, best.Scale()), best.zero};
}

// ---- value = scale * q + offset, q integer in [0, levels] ----

struct AffineScale {
  V scale, offset;  // as stored, normalised
};

// The best trial so far, of weights y = x - low: with the means taken out, least squares leave
// cross^2 / square less of the error.
struct AffineBest {
  V q;       // sum h q
  V cross;   // sum h y q - (sum h y) (sum h q) / sum h
  V square;  // sum h q^2 - (sum h q)^2 / sum h

  static AffineBest None() {
    return {hn::Zero(LaneTag()), hn::Zero(LaneTag()), hn::Set(LaneTag(), 1.0f)};
  }

  void Offer(V q_in, V cross_in, V square_in) {
    const V ours = hn::Mul(hn::Mul(cross_in, cross_in), square);
    const V theirs = hn::Mul(hn::Mul(cross, cross), square_in);
    const VMask better = hn::And(hn::Gt(ours, theirs), hn::Gt(square_in, hn::Zero(LaneTag())));
    q = hn::IfThenElse(better, q_in, q);
    cross = hn::IfThenElse(better, cross_in, cross);
    square = hn::IfThenElse(better, square_in, square);
  }
};

struct AffineSums {
  V q, qq, yq;
};

// Codes q = y inverse + start.
template <int kCount>
HWY_INLINE void SumAffineTrials(const Columns& b, const V* inverse, const V* start, V levels,
                                AffineSums* out) {
  AffineSums s[kCount];
  const V zero = hn::Zero(LaneTag());
  for (int k = 0; k < kCount; ++k) s[k] = {zero, zero, zero};
  for (int64_t i = 0; i < b.n; ++i) {
    const V y = hn::Sub(b.At(i), b.low);
    const V h = Splat(b.h[i]);
    const V hy = hn::Mul(h, y);
    for (int k = 0; k < kCount; ++k) {
      const V at = hn::Add(hn::Mul(y, inverse[k]), start[k]);
      const V q = NearestV(ClampV(at, zero, levels));
      const V hq = hn::Mul(h, q);
      s[k].q = hn::Add(s[k].q, hq);
      s[k].qq = hn::Add(s[k].qq, hn::Mul(hq, q));
      s[k].yq = hn::Add(s[k].yq, hn::Mul(hy, q));
    }
  }
  for (int k = 0; k < kCount; ++k) out[k] = s[k];
}

HWY_INLINE AffineScale SearchAffine(const Columns& b, float levels, DType dtype, Effort effort) {
  const V top = Splat(levels);
  const V zero = hn::Zero(LaneTag());
  V sum_h = zero, sum_y = zero;
  for (int64_t i = 0; i < b.n; ++i) {
    const V h = Splat(b.h[i]);
    sum_h = hn::Add(sum_h, h);
    sum_y = hn::Add(sum_y, hn::Mul(h, hn::Sub(b.At(i), b.low)));
  }
  const V share = hn::Div(Splat(1.0f), sum_h);
  const V mean = hn::Mul(sum_y, share);
  AffineBest best = AffineBest::None();
  const auto offer = [&](const AffineSums& s) {
    best.Offer(s.q, hn::Sub(s.yq, hn::Mul(mean, s.q)),
               hn::Sub(s.qq, hn::Mul(hn::Mul(s.q, s.q), share)));
  };
  const EndsList list = AffineTrials(static_cast<int>(levels), effort);
  const V unit = DivOrZero(top, hn::Sub(b.high, b.low));
  for (int first = 0; first < list.count; first += kTrialsAtOnce) {
    V inverse[kTrialsAtOnce], start[kTrialsAtOnce];
    AffineSums sums[kTrialsAtOnce];
    for (int k = 0; k < kTrialsAtOnce; ++k) {
      const Ends ends = list.at[std::min(first + k, list.count - 1)];
      const float wide = 1 / (1 - ends.low - ends.high);
      inverse[k] = hn::Mul(unit, Splat(wide));
      start[k] = Splat(-ends.low * levels * wide);
    }
    SumAffineTrials<kTrialsAtOnce>(b, inverse, start, top, sums);
    for (int k = 0; k < kTrialsAtOnce; ++k) offer(sums[k]);
  }
  for (int k = 0; k < Refits(effort); ++k) {
    const V inverse = DivOrZero(best.square, best.cross);
    const V offset =
        hn::Sub(mean, hn::Mul(hn::Div(best.cross, best.square), hn::Mul(best.q, share)));
    const V start = hn::Neg(hn::Mul(offset, inverse));
    AffineSums sums;
    SumAffineTrials<1>(b, &inverse, &start, top, &sums);
    offer(sums);
  }
  // The offset is the best for the scale as stored.
  const V scale = b.Stored(dtype, hn::Div(best.cross, best.square));
  const V offset = hn::Sub(mean, hn::Mul(scale, hn::Mul(best.q, share)));
  return {scale, b.Stored(dtype, hn::Add(offset, b.low))};
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
