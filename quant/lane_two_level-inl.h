// Scales of super-blocks of 256 columns with an fp16 d and a signed integer n for each sub-block:
// value = d n v, v a value of the type's codes. What Q3_K, Q6_K and IQ4_XS share.
//
// The search. Each sub-block tries some real scales, given as the code value that its largest
// weight would have: with the sign that the weight gets and with the other, since no type's codes
// are symmetric. The codes of a trial tell its best scale a / b and what that gains, a^2 / b, in
// one pass; the best trial's error as a quadratic function of the scale then serves to choose d
// among some values, without another look at the weights. At last, if there is time, neighbours of
// the integers by their true errors, and the least-squares d for all codes.
#include <algorithm>
#include <cstdint>
#include <span>

#include "quant/grid.h"
#include "quant/lane_fit-inl.h"

#if defined(PENNYWEIGHT_QUANT_LANE_TWO_LEVEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_LANE_TWO_LEVEL_INL_H_
#undef PENNYWEIGHT_QUANT_LANE_TWO_LEVEL_INL_H_
#else
#define PENNYWEIGHT_QUANT_LANE_TWO_LEVEL_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {

// The sums of SymmetricSumsV for kTrials inverse scales in one pass. kPlain: h is one everywhere
// and is not looked at, which gives the same bits. Codes::Value(t): the value nearest to t =
// x * Codes::Argument(1 / scale). Codes::ValueInside, for kInside: the same for scales that give
// weights at most Codes::kMostInside, and so need not be cut on that side.
template <class Codes, bool kPlain, bool kInside, int kTrials>
HWY_INLINE void SumTrials(const float* x, const float* h, int64_t n, const V* inverse, V* xq,
                          V* qq) {
  V argument[kTrials], a[kTrials], b[kTrials];
  for (int t = 0; t < kTrials; ++t) {
    argument[t] = Codes::Argument(inverse[t]);
    a[t] = hn::Zero(LaneTag());
    b[t] = hn::Zero(LaneTag());
  }
  for (int64_t i = 0; i < n; ++i) {
    const V xi = LoadCol(x, i);
    for (int t = 0; t < kTrials; ++t) {
      const V at = hn::Mul(xi, argument[t]);
      const V q = kInside ? Codes::ValueInside(at) : Codes::Value(at);
      const V hq = kPlain ? q : hn::Mul(Splat(h[i]), q);
      a[t] = hn::Add(a[t], hn::Mul(hq, xi));
      b[t] = hn::Add(b[t], hn::Mul(hq, q));
    }
  }
  for (int t = 0; t < kTrials; ++t) {
    xq[t] = a[t];
    qq[t] = b[t];
  }
}

// Sums of h (x - scale q)^2 for kTrials scales in one pass.
template <class Codes, bool kPlain, int kTrials>
HWY_INLINE void TrueErrors(const float* x, const float* h, int64_t n, const V* scale, V* error) {
  V argument[kTrials], sum[kTrials];
  for (int t = 0; t < kTrials; ++t) {
    argument[t] = Codes::Argument(DivOrZero(Splat(1.0f), scale[t]));
    sum[t] = hn::Zero(LaneTag());
  }
  for (int64_t i = 0; i < n; ++i) {
    const V xi = LoadCol(x, i);
    for (int t = 0; t < kTrials; ++t) {
      const V e = hn::Sub(xi, hn::Mul(scale[t], Codes::Value(hn::Mul(xi, argument[t]))));
      const V he = kPlain ? e : hn::Mul(Splat(h[i]), e);
      sum[t] = hn::Add(sum[t], hn::Mul(he, e));
    }
  }
  for (int t = 0; t < kTrials; ++t) error[t] = sum[t];
}

// The best of some trials: sums xq and qq of its codes.
struct BestTrial {
  V xq;
  V qq;
  V Scale() const { return DivOrZero(xq, qq); }
};

template <int kTrials>
HWY_INLINE void KeepBetter(const V* xq, const V* qq, BestTrial* best) {
  for (int t = 0; t < kTrials; ++t) {
    // xq^2 / qq is larger.
    const VMask better = hn::Gt(hn::Mul(hn::Mul(xq[t], xq[t]), best->qq),
                                hn::Mul(hn::Mul(best->xq, best->xq), qq[t]));
    best->xq = hn::IfThenElse(better, xq[t], best->xq);
    best->qq = hn::IfThenElse(better, qq[t], best->qq);
  }
}

// Real scales to try, each told by the code value that the weight of largest magnitude, `peak`,
// would have: its sign turned to that of the types' longer, negative side; below zero: to the
// other.
struct Trials {
  std::span<const float> inside;  // at most Codes::kMostInside
  std::span<const float> beyond;  // cut the largest weight short
};

template <class Codes, bool kPlain, bool kInside>
HWY_INLINE void TryEach(const float* x, const float* h, int64_t n, V unit,
                        std::span<const float> trials, BestTrial* best) {
  constexpr int kAtOnce = 3;  // what the registers of AVX2 hold
  V inverse[kAtOnce], xq[kAtOnce], qq[kAtOnce];
  size_t t = 0;
  for (; t + kAtOnce <= trials.size(); t += kAtOnce) {
    for (size_t k = 0; k < kAtOnce; ++k) inverse[k] = hn::Mul(unit, Splat(trials[t + k]));
    SumTrials<Codes, kPlain, kInside, kAtOnce>(x, h, n, inverse, xq, qq);
    KeepBetter<kAtOnce>(xq, qq, best);
  }
  for (; t < trials.size(); ++t) {
    inverse[0] = hn::Mul(unit, Splat(trials[t]));
    SumTrials<Codes, kPlain, kInside, 1>(x, h, n, inverse, xq, qq);
    KeepBetter<1>(xq, qq, best);
  }
}

template <class Codes, bool kPlain>
HWY_INLINE BestTrial TryScales(const float* x, const float* h, int64_t n, V peak,
                               const Trials& trials) {
  // Beside what a super-block spans, smaller ones are nothing; their inverse might be infinite.
  const VMask small = hn::Lt(hn::Abs(peak), Splat(0x1p-40f));
  const V unit = DivOrZero(Splat(-1.0f), hn::IfThenElse(small, hn::Zero(LaneTag()), peak));
  BestTrial best{hn::Zero(LaneTag()), Splat(1.0f)};
  TryEach<Codes, kPlain, true>(x, h, n, unit, trials.inside, &best);
  TryEach<Codes, kPlain, false>(x, h, n, unit, trials.beyond, &best);
  return best;
}

// Weights of largest magnitude of each of the sub-blocks of n columns in w[count * n], with their
// signs, to peak[count][kLanes]. Returns the largest magnitude of all.
HWY_INLINE V FindPeaks(const float* w, int64_t n, int64_t count, float* peak) {
  V top = hn::Zero(LaneTag());
  for (int64_t j = 0; j < count; ++j, w += n * kLanes) {
    V low = hn::Zero(LaneTag()), high = hn::Zero(LaneTag());
    for (int64_t i = 0; i < n; ++i) {
      low = hn::Min(low, LoadCol(w, i));
      high = hn::Max(high, LoadCol(w, i));
    }
    const V depth = hn::Neg(low);
    StoreCol(hn::IfThenElse(hn::Gt(depth, high), low, high), peak, j);
    top = hn::Max(top, hn::Max(depth, high));
  }
  return top;
}

// How long to search.
struct TwoLevelPlan {
  Trials trials;
  std::span<const float> ratios;  // values of d, over what gives the largest scale the integer -top
  int rounds = 0;                 // of neighbouring integers, then the least-squares d
};

inline bool AllOnes(const float* h, int64_t n) {
  int other = 0;
  for (int64_t i = 0; i < n; ++i) other |= h[i] != 1.0f;
  return other == 0;
}

// Integers are in [-kTop, kTop - 1].
template <class Codes, int64_t kSub, int kTop>
class TwoLevelScales {
 public:
  static constexpr int64_t kSuper = 256;
  static constexpr int64_t kCount = kSuper / kSub;

  // `plain`: for importance that is one everywhere, where fewer trials do.
  TwoLevelScales(const TwoLevelPlan& plain, const TwoLevelPlan& weighted)
      : plain_(plain), weighted_(weighted), x_(kSuper * kLanes) {}

  // As BlockGrid::BeginBlock and BeginSubBlock.
  void Fit(const float* w, const float* h, ScaleSearch search) {
    const bool plain = AllOnes(h, kSuper);
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      Lanes lanes = Load(w, l);
      if (search == ScaleSearch::kMinMax) {
        MinMax(lanes);
      } else if (plain) {
        Search<true>(lanes, h, plain_);
      } else {
        Search<false>(lanes, h, weighted_);
      }
    }
  }
  void FitSub(int64_t s, const float* w, const float* h) {
    for (int64_t l = 0; l < kLanes; l += VWidth()) SearchSub(s, w + l, h, l);
  }

  // As BlockGrid::TakeLanes.
  void TakeLanes(const TwoLevelScales& from, const LaneMask& lanes) {
    pennyweight::TakeLanes(from.d_, 1, lanes, d_);
    pennyweight::TakeLanes(from.integer_, kCount, lanes, integer_);
    pennyweight::TakeLanes(from.scale_, kCount, lanes, scale_);
    pennyweight::TakeLanes(from.argument_, kCount, lanes, argument_);
  }

  // Of sub-block j, [kLanes]: the integer, d n, and Codes::Argument(1 / (d n)).
  const float* integer(int64_t j) const { return integer_ + j * kLanes; }
  const float* scale(int64_t j) const { return scale_ + j * kLanes; }
  const float* argument(int64_t j) const { return argument_ + j * kLanes; }
  const float* d() const { return d_; }

 private:
  // The lanes of one vector: weights and peaks times `up`, a power of two of each lane.
  struct Lanes {
    int64_t at;
    float* x;
    float* peak;
    V up, down;
    V Stored(V scale) const { return hn::Mul(RoundToF16(hn::Mul(scale, down)), up); }
  };

  Lanes Load(const float* w, int64_t l) {
    const V top = FindPeaks(w + l, kSub, kCount, peak_ + l);
    const V up = Normalizer(top);
    ScaleCols(w + l, kSuper, up, x_.data() + l);
    ScaleCols(peak_ + l, kCount, up, peak_ + l);
    return {l, x_.data() + l, peak_ + l, up, hn::Div(Splat(1.0f), up)};
  }

  static V ClampInteger(V v) {
    return ClampV(v, Splat(-static_cast<float>(kTop)), Splat(static_cast<float>(kTop - 1)));
  }
  static V NearestInteger(V scale, V inverse_d) {
    return NearestV(ClampInteger(hn::Mul(scale, inverse_d)));
  }

  // The real scales become integers; scale_ and argument_ follow. d is in units of lanes.x.
  void Fix(const Lanes& lanes, V d, const float* real) {
    const V inverse = DivOrZero(Splat(1.0f), d);
    for (int64_t j = 0; j < kCount; ++j) {
      StoreCol(NearestInteger(LoadCol(real, j), inverse), integer_ + lanes.at, j);
    }
    Derive(lanes, d);
  }
  void Derive(const Lanes& lanes, V d) {
    const V stored = hn::Mul(d, lanes.down);
    StoreCol(stored, d_ + lanes.at, 0);
    for (int64_t j = 0; j < kCount; ++j) DeriveSub(lanes.at, j, stored);
  }
  void DeriveSub(int64_t l, int64_t j, V stored) {
    const V scale = hn::Mul(stored, LoadCol(integer_ + l, j));
    StoreCol(scale, scale_ + l, j);
    StoreCol(Codes::Argument(DivOrZero(Splat(1.0f), scale)), argument_ + l, j);
  }

  static V Larger(V a, V b) { return hn::IfThenElse(hn::Gt(hn::Abs(a), hn::Abs(b)), a, b); }

  // The plain choice: the largest weight of a sub-block gets the lowest code, and the largest scale
  // the lowest integer.
  void MinMax(const Lanes& lanes) {
    V largest = hn::Zero(LaneTag());
    for (int64_t j = 0; j < kCount; ++j) {
      const V scale = hn::Div(LoadCol(lanes.peak, j), Splat(Codes::kLowest));
      StoreCol(scale, real_ + lanes.at, j);
      largest = Larger(scale, largest);
    }
    Fix(lanes, lanes.Stored(hn::Mul(largest, Splat(-1.0f / kTop))), real_ + lanes.at);
  }

  template <bool kPlain>
  void Search(const Lanes& lanes, const float* h, const TwoLevelPlan& plan) {
    float* real = real_ + lanes.at;
    float* xq = xq_ + lanes.at;
    float* qq = qq_ + lanes.at;
    V largest = hn::Zero(LaneTag());
    for (int64_t j = 0; j < kCount; ++j) {
      const BestTrial best = TryScales<Codes, kPlain>(lanes.x + j * kSub * kLanes, h + j * kSub,
                                                      kSub, LoadCol(lanes.peak, j), plan.trials);
      StoreCol(best.xq, xq, j);
      StoreCol(best.qq, qq, j);
      StoreCol(best.Scale(), real, j);
      largest = Larger(best.Scale(), largest);
    }
    V d = ChooseD(lanes, largest, plan.ratios);
    Fix(lanes, d, real);
    for (int r = 0; r < plan.rounds; ++r) {
      for (int64_t j = 0; j < kCount; ++j) Climb<kPlain>(lanes, h, j, d);
      d = RefitD<kPlain>(lanes, h, d);
      Derive(lanes, d);
    }
  }

  // d of the least error by the quadratic forms of the sub-blocks.
  V ChooseD(const Lanes& lanes, V largest, std::span<const float> ratios) const {
    const float* real = real_ + lanes.at;
    V best = hn::Zero(LaneTag()), best_error = hn::Zero(LaneTag());
    for (size_t r = 0; r < ratios.size(); ++r) {
      const V d = lanes.Stored(hn::Mul(largest, Splat(-ratios[r] / kTop)));
      const V inverse = DivOrZero(Splat(1.0f), d);
      V error = hn::Zero(LaneTag());
      for (int64_t j = 0; j < kCount; ++j) {
        const V scale = hn::Mul(d, NearestInteger(LoadCol(real, j), inverse));
        const V a = LoadCol(xq_ + lanes.at, j);
        const V inner = hn::Sub(hn::Mul(scale, LoadCol(qq_ + lanes.at, j)), hn::Add(a, a));
        error = hn::Add(error, hn::Mul(scale, inner));
      }
      const VMask better = hn::Lt(error, best_error);
      best = hn::IfThenElse(better, d, best);
      best_error = hn::IfThenElse(better, error, best_error);
    }
    return best;
  }

  // The integer of sub-block j and its two neighbours by their true errors.
  template <bool kPlain>
  void Climb(const Lanes& lanes, const float* h, int64_t j, V d) {
    const V n = LoadCol(integer_ + lanes.at, j);
    const V integer[3] = {n, ClampInteger(hn::Sub(n, Splat(1.0f))),
                          ClampInteger(hn::Add(n, Splat(1.0f)))};
    const V scale[3] = {hn::Mul(integer[0], d), hn::Mul(integer[1], d), hn::Mul(integer[2], d)};
    V error[3];
    TrueErrors<Codes, kPlain, 3>(lanes.x + j * kSub * kLanes, h + j * kSub, kSub, scale, error);
    StoreCol(Least<3>(integer, error), integer_ + lanes.at, j);
  }

  template <int kCandidates>
  static V Least(const V* value, const V* error) {
    V best = value[0], best_error = error[0];
    for (int k = 1; k < kCandidates; ++k) {
      const VMask better = hn::Lt(error[k], best_error);
      best = hn::IfThenElse(better, value[k], best);
      best_error = hn::IfThenElse(better, error[k], best_error);
    }
    return best;
  }

  // Least squares for the codes that d and the integers give.
  template <bool kPlain>
  V RefitD(const Lanes& lanes, const float* h, V d) const {
    V a = hn::Zero(LaneTag()), b = hn::Zero(LaneTag());
    for (int64_t j = 0; j < kCount; ++j) {
      const V n = LoadCol(integer_ + lanes.at, j);
      const V inverse = DivOrZero(Splat(1.0f), hn::Mul(n, d));
      V xq, qq;
      SumTrials<Codes, kPlain, false, 1>(lanes.x + j * kSub * kLanes, h + j * kSub, kSub, &inverse,
                                         &xq, &qq);
      a = hn::Add(a, hn::Mul(n, xq));
      b = hn::Add(b, hn::Mul(hn::Mul(n, n), qq));
    }
    const V fit = lanes.Stored(DivOrZero(a, b));
    return hn::IfThenElse(hn::Eq(fit, hn::Zero(LaneTag())), d, fit);
  }

  void SearchSub(int64_t s, const float* w, const float* h, int64_t l) {
    HWY_ALIGN float x[kSub * kLanes];
    HWY_ALIGN float peak[kLanes];
    const V top = FindPeaks(w, kSub, 1, peak);
    const V up = Normalizer(top);
    ScaleCols(w, kSub, up, x);
    const BestTrial best =
        TryScales<Codes, false>(x, h, kSub, hn::Mul(LoadCol(peak, 0), up), weighted_.trials);
    const V stored = LoadCol(d_ + l, 0);
    const V d = hn::Mul(stored, up);
    const V near = NearestInteger(best.Scale(), DivOrZero(Splat(1.0f), d));
    const V integer[4] = {LoadCol(integer_ + l, s), near, ClampInteger(hn::Sub(near, Splat(1.0f))),
                          ClampInteger(hn::Add(near, Splat(1.0f)))};
    V scale[4], error[4];
    for (int k = 0; k < 4; ++k) scale[k] = hn::Mul(integer[k], d);
    TrueErrors<Codes, false, 1>(x, h, kSub, scale, error);
    TrueErrors<Codes, false, 3>(x, h, kSub, scale + 1, error + 1);
    StoreCol(Least<4>(integer, error), integer_ + l, s);
    DeriveSub(l, s, stored);
  }

  TwoLevelPlan plain_, weighted_;
  LaneArray<float> x_;
  alignas(kLaneAlign) float d_[kLanes] = {};
  alignas(kLaneAlign) float integer_[kCount * kLanes] = {};
  alignas(kLaneAlign) float scale_[kCount * kLanes] = {};
  alignas(kLaneAlign) float argument_[kCount * kLanes] = {};
  alignas(kLaneAlign) float peak_[kCount * kLanes] = {};
  alignas(kLaneAlign) float real_[kCount * kLanes] = {};
  alignas(kLaneAlign) float xq_[kCount * kLanes] = {};
  alignas(kLaneAlign) float qq_[kCount * kLanes] = {};
};

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
