// Q2_K Q4_K Q5_K: a super-block of 256 with fp16 d and dmin; each sub-block has an integer scale sc
// and minimum mn, and value = d sc q - dmin mn. One class per instruction set; see lanes-inl.h.
//
// The squared error of a sub-block, as a function of its scale and minimum, is rough: many shallow
// valleys, one per way of rounding. Descent from one start finds a poor one, so most of the time
// goes into trials, and each trial is one pass over the columns:
//  1. Trials of ranges around minimum and maximum. The least-squares scale and minimum for the
//     codes of each are known in closed form, and so is the error they leave (Fit). Unequal
//     importance makes the error rougher, so there are more trials then.
//  2. d, then dmin: of a few candidates the one whose integers come closest to the fits, distances
//     weighted by the curvature of the error (BestStep).
//  3. Integers near the fit, judged by true errors (Climb), and least squares for d and dmin with
//     these integers and their codes (ClimbAndRefit).
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "quant/grid.h"
#include "quant/grid_kquants_affine_plan.h"
#include "quant/lane_fit-inl.h"
#include "quant/lane_pack-inl.h"

#if defined(PENNYWEIGHT_QUANT_GRID_KQUANTS_AFFINE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_GRID_KQUANTS_AFFINE_INL_H_
#undef PENNYWEIGHT_QUANT_GRID_KQUANTS_AFFINE_INL_H_
#else
#define PENNYWEIGHT_QUANT_GRID_KQUANTS_AFFINE_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {

template <int64_t kSub>
class AffineKGrid final : public BlockGrid {
 public:
  AffineKGrid(BlockType type, int levels, int top, Effort effort)
      : BlockGrid(kSuper, kSub, 1, TraitsOf(type).bytes),
        type_(type),
        levels_(static_cast<float>(levels)),
        top_(static_cast<float>(top)),
        plans_{PlanOf(levels, false, effort), PlanOf(levels, true, effort)} {}

  void BeginBlock(const float* w, const float* h, ScaleSearch search) override {
    const bool plain = AllOnes(h, kSuper);
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const float* x = w + l;
      const Unit unit = Normalize(&x, kSuper);
      if (search == ScaleSearch::kMinMax) {
        MinMax(x, unit, l);
      } else if (plain) {
        Search<true>(x, h, unit, l);
      } else {
        Search<false>(x, h, unit, l);
      }
      for (int64_t j = 0; j < kSubs; ++j) FixScale(j, l);
    }
  }

  void BeginSubBlock(int64_t s, const float* w, const float* h) override {
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const float* x = w + l;
      const V up = Normalize(&x, kSub).up;
      const V d = hn::Mul(LoadCol(d_ + l, 0), up), dmin = hn::Mul(LoadCol(dmin_ + l, 0), up);
      const SubFit fit = Fit<false>(x, h);
      const Integers kept =
          Climb<false>(x, h, fit, d, dmin, LoadCol(sc_ + l, s), LoadCol(mn_ + l, s), {});
      const Integers near = Nearest(fit, d, dmin);
      const Integers fresh =
          Climb<false>(x, h, fit, d, dmin, near.sc, near.mn, plans_[false].steps);
      const VMask better = hn::Lt(fresh.error, kept.error);
      StoreCol(hn::IfThenElse(better, fresh.sc, kept.sc), sc_ + l, s);
      StoreCol(hn::IfThenElse(better, fresh.mn, kept.mn), mn_ + l, s);
      FixScale(s, l);
    }
  }

  void Round(int64_t i, const float* w, const float*, int64_t, float* decoded) override {
    const int64_t j = i / kSub;
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const V min = LoadCol(min_ + l, j);
      const V q = Code(hn::Load(LaneTag(), w + l), LoadCol(inverse_ + l, j), min);
      hn::Store(hn::Sub(hn::Mul(LoadCol(scale_ + l, j), q), min), LaneTag(), decoded + l);
      StoreCode(q, codes_ + l, i);
    }
  }

  void Encode(const float* w, const float* h, ScaleSearch search, uint8_t* out) override {
    BeginBlock(w, h, search);
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      for (int64_t j = 0; j < kSubs; ++j) {
        const V inverse = LoadCol(inverse_ + l, j), min = LoadCol(min_ + l, j);
        for (int64_t i = j * kSub; i < (j + 1) * kSub; ++i) {
          StoreCode(Code(LoadCol(w + l, i), inverse, min), codes_ + l, i);
        }
      }
    }
    Pack(out);
  }

  void TakeLanes(const BlockGrid& other, const LaneMask& lanes) override {
    const auto& from = static_cast<const AffineKGrid&>(other);
    pennyweight::TakeLanes(from.d_, 1, lanes, d_);
    pennyweight::TakeLanes(from.dmin_, 1, lanes, dmin_);
    pennyweight::TakeLanes(from.sc_, kSubs, lanes, sc_);
    pennyweight::TakeLanes(from.mn_, kSubs, lanes, mn_);
    pennyweight::TakeLanes(from.scale_, kSubs, lanes, scale_);
    pennyweight::TakeLanes(from.inverse_, kSubs, lanes, inverse_);
    pennyweight::TakeLanes(from.min_, kSubs, lanes, min_);
    pennyweight::TakeLanes(from.codes_, kSuper, lanes, codes_);
  }

  void Pack(uint8_t* out) const override {
    HWY_ALIGN uint8_t bytes[kMostBytes * kLanes];  // the packed blocks in lane order
    if constexpr (kSub == 16) {
      PackScales2(bytes);
      for (int64_t half = 0; half < 2; ++half) {
        MergeFields<0, 2>(codes_ + half * 128 * kLanes, 1, 32, 32,
                          bytes + (16 + half * 32) * kLanes);
      }
      TransposeBytes(bytes, packed_bytes() - 4, out, packed_bytes());
      StoreF16Lanes(d_, out + 80, packed_bytes());
      StoreF16Lanes(dmin_, out + 82, packed_bytes());
    } else {
      PackScales45(bytes + 4 * kLanes);
      uint8_t* nibbles = bytes + 16 * kLanes;
      if (type_ == BlockType::kQ5_K) {
        MergeFields<4, 1>(codes_, 1, 32, 32, nibbles);
        nibbles += 32 * kLanes;
      }
      for (int64_t g = 0; g < 4; ++g) {
        MergeFields<0, 4>(codes_ + g * 64 * kLanes, 1, 32, 32, nibbles + g * 32 * kLanes);
      }
      TransposeBytes(bytes + 4 * kLanes, packed_bytes() - 4, out + 4, packed_bytes());
      StoreF16Lanes(d_, out, packed_bytes());
      StoreF16Lanes(dmin_, out + 2, packed_bytes());
    }
  }

 private:
  static constexpr int64_t kSuper = 256;
  static constexpr int64_t kSubs = kSuper / kSub;
  static constexpr int64_t kMostBytes = 176;  // of a block of Q5_K

  // One sub-block: sums of h and h x, sums over the best codes found, and the scale and minimum
  // (value = scale q - min, neither below zero) that are best for those codes.
  struct SubFit {
    V h, hx;
    AffineSumsV codes;
    V scale, min;
  };
  // Integers of a sub-block, the sums over their codes, and the error less sum h x^2.
  struct Integers {
    V sc, mn;
    AffineSumsV codes;
    V error;
  };

  // sc | mn << 4 of each sub-block.
  void PackScales2(uint8_t* bytes) const {
    for (int64_t i = 0; i < kSubs * kLanes; i += VWidth()) {
      const V mn = hn::Load(LaneTag(), mn_ + i), sc = hn::Load(LaneTag(), sc_ + i);
      StoreCode(hn::Add(hn::Mul(mn, Splat(16.0f)), sc), bytes + i, 0);
    }
  }

  // Six bits each; the upper two of the last four sub-blocks lie above those of the first four.
  void PackScales45(uint8_t* bytes) const {
    constexpr int64_t kHalf = 4 * kLanes;
    const V sixteen = Splat(16.0f), sixty_four = Splat(64.0f);
    for (int64_t i = 0; i < kHalf; i += VWidth()) {
      const V sc = hn::Load(LaneTag(), sc_ + kHalf + i), mn = hn::Load(LaneTag(), mn_ + kHalf + i);
      const V sc_high = hn::Floor(hn::Mul(sc, Splat(1.0f / 16)));
      const V mn_high = hn::Floor(hn::Mul(mn, Splat(1.0f / 16)));
      const V sc_low = hn::Sub(sc, hn::Mul(sc_high, sixteen));
      const V mn_low = hn::Sub(mn, hn::Mul(mn_high, sixteen));
      const auto below = [&](V high, const float* first) {
        return hn::Add(hn::Mul(high, sixty_four), hn::Load(LaneTag(), first + i));
      };
      StoreCode(below(sc_high, sc_), bytes + i, 0);
      StoreCode(below(mn_high, mn_), bytes + kHalf + i, 0);
      StoreCode(hn::Add(hn::Mul(mn_low, sixteen), sc_low), bytes + 2 * kHalf + i, 0);
    }
  }

  HWY_INLINE V Code(V w, V inverse, V min) const {
    return NearestV(ClampV(hn::Mul(hn::Add(w, min), inverse), hn::Zero(LaneTag()), Splat(levels_)));
  }

  void FixScale(int64_t j, int64_t l) {
    const V scale = hn::Mul(LoadCol(d_ + l, 0), LoadCol(sc_ + l, j));
    StoreCol(scale, scale_ + l, j);
    StoreCol(DivOrZero(Splat(1.0f), scale), inverse_ + l, j);
    StoreCol(hn::Mul(LoadCol(dmin_ + l, 0), LoadCol(mn_ + l, j)), min_ + l, j);
  }

  // Powers of two: what a lane is multiplied by, and its inverse.
  struct Unit {
    V up, down;
  };

  HWY_INLINE static bool AllOnes(const float* h, int64_t n) {
    V off = hn::Zero(LaneTag());
    for (int64_t i = 0; i < n; i += VWidth()) {
      off = hn::Max(off, hn::Abs(hn::Sub(hn::LoadU(LaneTag(), h + i), Splat(1.0f))));
    }
    return hn::AllTrue(LaneTag(), hn::Eq(off, hn::Zero(LaneTag())));
  }

  // Makes *x point at weights whose powers neither underflow nor overflow: the given ones where
  // they are of usual size, else a copy. A lane of usual size is multiplied by one.
  Unit Normalize(const float** x, int64_t n) {
    V tops[4];  // side by side, because each waits for its last
    for (V& top : tops) top = hn::Zero(LaneTag());
    for (int64_t i = 0; i < n; i += 4) {
      for (int64_t k = 0; k < 4; ++k) tops[k] = hn::Max(tops[k], hn::Abs(LoadCol(*x, i + k)));
    }
    const V top = hn::Max(hn::Max(tops[0], tops[1]), hn::Max(tops[2], tops[3]));
    const V one = Splat(1.0f);
    const VMask usual = hn::Or(hn::Eq(top, hn::Zero(LaneTag())),
                               hn::And(hn::Ge(top, Splat(0x1p-20f)), hn::Le(top, Splat(0x1p20f))));
    if (hn::AllTrue(LaneTag(), usual)) return {one, one};
    const V up = hn::IfThenElse(usual, one, Normalizer(top));
    ScaleCols(*x, n, up, scaled_);
    *x = scaled_;
    return {up, hn::Div(one, up)};
  }

  // As fp16 stores it.
  HWY_INLINE static V Stored(V step, const Unit& unit) {
    return hn::Mul(RoundToF16(hn::Mul(step, unit.down)), unit.up);
  }

  HWY_INLINE V Integer(V value, V inverse_step) const {
    return NearestV(ClampV(hn::Mul(value, inverse_step), hn::Zero(LaneTag()), Splat(top_)));
  }

  // The plain choice: codes 0 and `levels` are minimum (if below zero) and maximum.
  void MinMax(const float* x, const Unit& unit, int64_t l) {
    V most_scale = hn::Zero(LaneTag()), most_min = most_scale;
    for (int64_t j = 0; j < kSubs; ++j) {
      V low = hn::Zero(LaneTag()), high = LoadCol(x, j * kSub);
      for (int64_t i = j * kSub; i < (j + 1) * kSub; ++i) {
        low = hn::Min(low, LoadCol(x, i));
        high = hn::Max(high, LoadCol(x, i));
      }
      const V scale = hn::Mul(hn::Sub(high, low), Splat(1.0f / levels_));
      StoreCol(scale, scale_fit_, j);
      StoreCol(hn::Neg(low), min_fit_, j);
      most_scale = hn::Max(most_scale, scale);
      most_min = hn::Max(most_min, hn::Neg(low));
    }
    const V d = Stored(hn::Mul(most_scale, Splat(1.0f / top_)), unit);
    const V dmin = Stored(hn::Mul(most_min, Splat(1.0f / top_)), unit);
    const V inverse_d = DivOrZero(Splat(1.0f), d), inverse_dmin = DivOrZero(Splat(1.0f), dmin);
    StoreSteps(d, dmin, unit, l);
    for (int64_t j = 0; j < kSubs; ++j) {
      StoreCol(Integer(LoadCol(scale_fit_, j), inverse_d), sc_ + l, j);
      StoreCol(Integer(LoadCol(min_fit_, j), inverse_dmin), mn_ + l, j);
    }
  }

  void StoreSteps(V d, V dmin, const Unit& unit, int64_t l) {
    StoreCol(hn::Mul(d, unit.down), d_ + l, 0);
    StoreCol(hn::Mul(dmin, unit.down), dmin_ + l, 0);
  }

  template <bool kPlain>
  void Search(const float* x, const float* h, const Unit& unit, int64_t l) {
    V most_scale = hn::Zero(LaneTag()), most_min = most_scale;
    for (int64_t j = 0; j < kSubs; ++j) {
      const SubFit fit = Fit<kPlain>(x + j * kSub * kLanes, h + j * kSub);
      StoreCol(fit.h, h_, j);
      StoreCol(fit.hx, hx_, j);
      StoreCol(fit.codes.q, q_, j);
      StoreCol(fit.codes.qq, qq_, j);
      StoreCol(fit.codes.xq, xq_, j);
      StoreCol(fit.scale, scale_fit_, j);
      StoreCol(fit.min, min_fit_, j);
      most_scale = hn::Max(most_scale, fit.scale);
      // How steeply the error rises with the scale when the minimum follows, unless it is held at
      // zero.
      const V slope = hn::Div(hn::Mul(fit.codes.q, fit.codes.q), fit.h);
      const VMask follows = hn::Gt(fit.min, hn::Zero(LaneTag()));
      StoreCol(hn::Sub(fit.codes.qq, hn::IfThenElseZero(follows, slope)), curve_, j);
    }
    V d = BestStep(scale_fit_, curve_, most_scale, unit);
    const V inverse_d = DivOrZero(Splat(1.0f), d);
    for (int64_t j = 0; j < kSubs; ++j) {
      const V scale = hn::Mul(d, Integer(LoadCol(scale_fit_, j), inverse_d));
      const V min = BestMin(LoadSubFit(j), scale);
      StoreCol(min, min_fit_, j);
      most_min = hn::Max(most_min, min);
    }
    V dmin = BestStep(min_fit_, h_, most_min, unit);
    for (int64_t j = 0; j < kSubs; ++j) {
      const Integers start = Nearest(LoadSubFit(j), d, dmin);
      StoreCol(start.sc, sc_ + l, j);
      StoreCol(start.mn, mn_ + l, j);
    }
    for (int round = 0; round < plans_[kPlain].rounds; ++round) {
      ClimbAndRefit<kPlain>(x, h, unit, l, &d, &dmin);
    }
    StoreSteps(d, dmin, unit, l);
  }

  SubFit LoadSubFit(int64_t j) const {
    const AffineSumsV codes{LoadCol(q_, j), LoadCol(qq_, j), LoadCol(xq_, j)};
    return {LoadCol(h_, j), LoadCol(hx_, j), codes, LoadCol(scale_fit_, j), LoadCol(min_fit_, j)};
  }

  // The best minimum for a scale, with the codes of the fit; it may be below zero.
  HWY_INLINE static V BestMin(const SubFit& fit, V scale) {
    return hn::Div(hn::Sub(hn::Mul(scale, fit.codes.q), fit.hx), fit.h);
  }

  // The best scale and minimum for the codes.
  HWY_INLINE static void Solve(SubFit* fit) {
    const V zero = hn::Zero(LaneTag());
    const AffineSumsV& s = fit->codes;
    const V hqq = hn::Mul(fit->h, s.qq);
    V det = hn::Sub(hqq, hn::Mul(s.q, s.q));
    // One code for all weights (but for rounding errors): only their mean can be told.
    det = hn::IfThenElseZero(hn::Gt(det, hn::Mul(hqq, Splat(1e-6f))), det);
    const V scale = DivOrZero(hn::Sub(hn::Mul(fit->h, s.xq), hn::Mul(fit->hx, s.q)), det);
    fit->scale = hn::Max(scale, zero);
    fit->min = BestMin(*fit, fit->scale);
    const VMask below = hn::Lt(fit->min, zero);
    if (hn::AllFalse(LaneTag(), below)) return;
    fit->scale = hn::IfThenElse(below, hn::Max(DivOrZero(s.xq, s.qq), zero), fit->scale);
    fit->min = hn::IfThenElse(below, zero, fit->min);
  }

  // What the codes explain of sum h x^2, beyond what one value for all does, as a fraction
  // num / (h den) with den >= 0.
  struct Gain {
    V num, den;
  };
  HWY_INLINE static Gain GainOf(const SubFit& m, const AffineSumsV& s) {
    const V root = hn::Sub(hn::Mul(m.h, s.xq), hn::Mul(m.hx, s.q));
    Gain gain{hn::Mul(root, root), hn::Sub(hn::Mul(m.h, s.qq), hn::Mul(s.q, s.q))};
    // Where the best minimum is below zero it has to be zero. Weights that are all equal are on
    // the edge of that: rounding errors must not decide, as one code explains nothing beyond the
    // mean, but is what they need.
    const V edge = hn::Mul(s.qq, Splat(1.0f + 1e-5f));
    const VMask below = hn::Gt(hn::Mul(m.hx, edge), hn::Mul(s.q, s.xq));
    if (hn::AllFalse(LaneTag(), below)) return gain;
    const V num = hn::Sub(hn::Mul(hn::Mul(s.xq, s.xq), m.h), hn::Mul(hn::Mul(m.hx, m.hx), s.qq));
    return {hn::IfThenElse(below, num, gain.num), hn::IfThenElse(below, s.qq, gain.den)};
  }

  HWY_INLINE static AffineSumsV Select(VMask mask, const AffineSumsV& a, const AffineSumsV& b) {
    return {hn::IfThenElse(mask, a.q, b.q), hn::IfThenElse(mask, a.qq, b.qq),
            hn::IfThenElse(mask, a.xq, b.xq)};
  }

  // How much of a weight's distance from the mean counts towards the range: all of it where its
  // importance is the mean of the block or more, else that to the power of a quarter.
  HWY_INLINE static void Reach(const float* h, float* reach) {
    for (int64_t i = 0; i < kSub; i += VWidth()) {
      const V root = hn::Sqrt(hn::Sqrt(hn::LoadU(LaneTag(), h + i)));
      hn::StoreU(hn::Min(root, Splat(1.0f)), LaneTag(), reach + i);
    }
  }

  // Sums over the codes of a range whose ends leave minimum and maximum `low` and `high` steps
  // outside.
  template <bool kPlain>
  HWY_INLINE AffineSumsV TrySums(const float* x, const float* h, V inverse, V from, float low,
                                 float high) const {
    constexpr float kInside = 0.49f;
    const V levels = Splat(levels_);
    if constexpr (kSub == 32) {
      if (low < kInside && high < kInside)
        return SumAffineIfV<kPlain, false, false>(x, h, kSub, inverse, from, levels);
      if (low < kInside)
        return SumAffineIfV<kPlain, false, true>(x, h, kSub, inverse, from, levels);
      if (high < kInside)
        return SumAffineIfV<kPlain, true, false>(x, h, kSub, inverse, from, levels);
    }
    return SumAffineIfV<kPlain, true, true>(x, h, kSub, inverse, from, levels);
  }

  // The best of all ranges.
  template <bool kPlain>
  HWY_INLINE SubFit Fit(const float* x, const float* h) const {
    HWY_ALIGN float reach[kSub];
    constexpr bool kReach = kSub == 16 && !kPlain;
    if constexpr (kReach) Reach(h, reach);
    const V zero = hn::Zero(LaneTag()), levels = Splat(levels_);
    SubFit fit{zero, zero, {zero, zero, zero}, zero, zero};
    // Even and odd columns apart, because each sum waits for its last.
    V low[2] = {zero, zero}, high[2] = {Splat(-0x1p100f), Splat(-0x1p100f)};
    V sum_h[2] = {zero, zero}, sum_hx[2] = {zero, zero};
    for (int64_t i = 0; i < kSub; i += 2) {
      for (int64_t k = 0; k < 2; ++k) {
        const V xi = LoadCol(x, i + k), hi = Splat(h[i + k]);
        if constexpr (!kPlain) sum_h[k] = hn::Add(sum_h[k], hi);
        sum_hx[k] = hn::Add(sum_hx[k], kPlain ? xi : hn::Mul(hi, xi));
        if constexpr (!kReach) low[k] = hn::Min(low[k], xi);
        if constexpr (!kReach) high[k] = hn::Max(high[k], xi);
      }
    }
    fit.h = kPlain ? Splat(static_cast<float>(kSub)) : hn::Add(sum_h[0], sum_h[1]);
    fit.hx = hn::Add(sum_hx[0], sum_hx[1]);
    if constexpr (kReach) {
      const V mean = hn::Div(fit.hx, fit.h);
      for (int64_t i = 0; i < kSub; ++i) {
        const V part = hn::Mul(hn::Sub(LoadCol(x, i), mean), Splat(reach[i]));
        low[i % 2] = hn::Min(low[i % 2], hn::Add(mean, part));
        high[i % 2] = hn::Max(high[i % 2], hn::Add(mean, part));
      }
    }
    const V from_low = hn::Min(low[0], low[1]);
    const V range = hn::Sub(hn::Max(high[0], high[1]), from_low);
    const V per_step = DivOrZero(levels, range), step = hn::Mul(range, Splat(1.0f / levels_));
    Gain best{Splat(-1.0f), zero};
    for (const AffineRange& r : plans_[kPlain].ranges) {
      const V from = hn::Add(from_low, hn::Mul(step, Splat(r.low)));
      const float stretch = levels_ / (levels_ - r.low - r.high);
      const V inverse = hn::Mul(per_step, Splat(stretch));
      const AffineSumsV codes =
          TrySums<kPlain>(x, h, inverse, from, r.low * stretch, r.high * stretch);
      const Gain gain = GainOf(fit, codes);
      const VMask better = hn::Gt(hn::Mul(gain.num, best.den), hn::Mul(best.num, gain.den));
      best = {hn::IfThenElse(better, gain.num, best.num),
              hn::IfThenElse(better, gain.den, best.den)};
      fit.codes = Select(better, codes, fit.codes);
    }
    Solve(&fit);
    return fit;
  }

  // Of steps around most / top, as stored, the one whose multiples up to `top` come nearest to the
  // targets. Below the first ratio the largest target is cut short for finer steps.
  V BestStep(const float* targets, const float* weights, V most, const Unit& unit) const {
    static constexpr float kRatios[] = {1.0f,  0.90f, 0.94f, 0.97f, 1.03f,
                                        1.06f, 1.10f, 1.16f, 1.24f};
    V best = hn::Zero(LaneTag()), best_error = hn::Zero(LaneTag());
    for (const float& ratio : kRatios) {
      const V step = Stored(hn::Mul(most, Splat(1.0f / (ratio * top_))), unit);
      const V inverse = DivOrZero(Splat(1.0f), step);
      V error = hn::Zero(LaneTag());
      for (int64_t j = 0; j < kSubs; ++j) {
        const V target = LoadCol(targets, j);
        const V e = hn::Sub(hn::Mul(step, Integer(target, inverse)), target);
        error = hn::Add(error, hn::Mul(LoadCol(weights, j), hn::Mul(e, e)));
      }
      const bool first = &ratio == kRatios;
      const VMask better = first ? hn::Eq(error, error) : hn::Lt(error, best_error);
      best = hn::IfThenElse(better, step, best);
      best_error = hn::IfThenElse(better, error, best_error);
    }
    return best;
  }

  // The error, less sum h x^2, of the codes with another scale and minimum.
  HWY_INLINE static V ErrorOf(const SubFit& m, const AffineSumsV& s, V scale, V min) {
    const V of_scale = hn::Mul(scale, hn::Sub(hn::Mul(scale, s.qq), hn::Add(s.xq, s.xq)));
    const V c = hn::Sub(m.hx, hn::Mul(scale, s.q));
    return hn::Add(of_scale, hn::Mul(min, hn::Add(hn::Mul(min, m.h), hn::Add(c, c))));
  }

  // Integers nearest to the fit, in terms of the error with its codes: the scale rounded down or
  // up, and the best minimum for that.
  HWY_INLINE Integers Nearest(const SubFit& fit, V d, V dmin) const {
    const V inverse_d = DivOrZero(Splat(1.0f), d), inverse_dmin = DivOrZero(Splat(1.0f), dmin);
    const V zero = hn::Zero(LaneTag());
    const V wanted = hn::Floor(hn::Mul(fit.scale, inverse_d));
    const auto choice = [&](V sc) {
      const V scale = hn::Mul(d, sc);
      const V mn = Integer(BestMin(fit, scale), inverse_dmin);
      return Integers{sc, mn, fit.codes, ErrorOf(fit, fit.codes, scale, hn::Mul(dmin, mn))};
    };
    const Integers a = choice(ClampV(wanted, zero, Splat(top_)));
    const Integers b = choice(ClampV(hn::Add(wanted, Splat(1.0f)), zero, Splat(top_)));
    const VMask better = hn::Lt(b.error, a.error);
    return {hn::IfThenElse(better, b.sc, a.sc), hn::IfThenElse(better, b.mn, a.mn), fit.codes,
            hn::IfThenElse(better, b.error, a.error)};
  }

  // (sc, mn), or of the neighbours in `steps` the one with the least true error.
  template <bool kPlain>
  HWY_INLINE Integers Climb(const float* x, const float* h, const SubFit& m, V d, V dmin, V sc,
                            V mn, std::span<const AffineStep> steps) const {
    const V zero = hn::Zero(LaneTag()), top = Splat(top_);
    const auto trial = [&](V a, V b) {
      const V scale = hn::Mul(d, a), min = hn::Mul(dmin, b);
      const AffineSumsV codes = SumAffineIfV<kPlain, true, true>(
          x, h, kSub, DivOrZero(Splat(1.0f), scale), hn::Neg(min), Splat(levels_));
      return Integers{a, b, codes, ErrorOf(m, codes, scale, min)};
    };
    Integers best = trial(sc, mn);
    for (const AffineStep& step : steps) {
      const Integers next = trial(ClampV(hn::Add(sc, Splat(step.sc)), zero, top),
                                  ClampV(hn::Add(mn, Splat(step.mn)), zero, top));
      const VMask better = hn::Lt(next.error, best.error);
      best.sc = hn::IfThenElse(better, next.sc, best.sc);
      best.mn = hn::IfThenElse(better, next.mn, best.mn);
      best.error = hn::IfThenElse(better, next.error, best.error);
      best.codes = Select(better, next.codes, best.codes);
    }
    return best;
  }

  // Better integers for all sub-blocks, then d and dmin by least squares for these and their codes.
  template <bool kPlain>
  void ClimbAndRefit(const float* x, const float* h, const Unit& unit, int64_t l, V* d, V* dmin) {
    const V zero = hn::Zero(LaneTag());
    V a11 = zero, a12 = zero, a22 = zero, b1 = zero, b2 = zero;
    for (int64_t j = 0; j < kSubs; ++j) {
      const SubFit m = LoadSubFit(j);
      const Integers best =
          Climb<kPlain>(x + j * kSub * kLanes, h + j * kSub, m, *d, *dmin, LoadCol(sc_ + l, j),
                        LoadCol(mn_ + l, j), plans_[kPlain].steps);
      StoreCol(best.sc, sc_ + l, j);
      StoreCol(best.mn, mn_ + l, j);
      a11 = hn::Add(a11, hn::Mul(hn::Mul(best.sc, best.sc), best.codes.qq));
      a12 = hn::Add(a12, hn::Mul(hn::Mul(best.sc, best.mn), best.codes.q));
      a22 = hn::Add(a22, hn::Mul(hn::Mul(best.mn, best.mn), m.h));
      b1 = hn::Add(b1, hn::Mul(best.sc, best.codes.xq));
      b2 = hn::Add(b2, hn::Mul(best.mn, m.hx));
    }
    const V product = hn::Mul(a11, a22);
    V det = hn::Sub(product, hn::Mul(a12, a12));
    det = hn::IfThenElseZero(hn::Gt(det, hn::Mul(product, Splat(1e-5f))), det);
    const V next_d = DivOrZero(hn::Sub(hn::Mul(a22, b1), hn::Mul(a12, b2)), det);
    const V next_dmin = DivOrZero(hn::Sub(hn::Mul(a12, b1), hn::Mul(a11, b2)), det);
    const VMask good = hn::And(hn::Gt(next_d, zero), hn::Gt(next_dmin, zero));
    *d = hn::IfThenElse(good, Stored(next_d, unit), *d);
    *dmin = hn::IfThenElse(good, Stored(next_dmin, unit), *dmin);
  }

  BlockType type_;
  float levels_, top_;
  AffinePlan plans_[2];                       // the second where all columns count the same
  alignas(kLaneAlign) float d_[kLanes] = {};  // as stored
  alignas(kLaneAlign) float dmin_[kLanes] = {};
  alignas(kLaneAlign) float sc_[kSubs * kLanes] = {};  // integers
  alignas(kLaneAlign) float mn_[kSubs * kLanes] = {};
  alignas(kLaneAlign) float scale_[kSubs * kLanes] = {};  // d sc, its inverse or 0, dmin mn
  alignas(kLaneAlign) float inverse_[kSubs * kLanes] = {};
  alignas(kLaneAlign) float min_[kSubs * kLanes] = {};
  alignas(kLaneAlign) uint8_t codes_[kSuper * kLanes] = {};
  // Of one vector of lanes: the fits of all sub-blocks.
  alignas(kLaneAlign) float h_[kSubs * kLanes] = {};
  alignas(kLaneAlign) float hx_[kSubs * kLanes] = {};
  alignas(kLaneAlign) float q_[kSubs * kLanes] = {};
  alignas(kLaneAlign) float qq_[kSubs * kLanes] = {};
  alignas(kLaneAlign) float xq_[kSubs * kLanes] = {};
  alignas(kLaneAlign) float scale_fit_[kSubs * kLanes] = {};
  alignas(kLaneAlign) float min_fit_[kSubs * kLanes] = {};
  alignas(kLaneAlign) float curve_[kSubs * kLanes] = {};
  alignas(kLaneAlign) float scaled_[kSuper * kLanes] = {};
};

std::unique_ptr<BlockGrid> MakeAffineKGridImpl(BlockType type, Effort effort) {
  switch (type) {
    case BlockType::kQ2_K:
      return std::make_unique<AffineKGrid<16>>(type, 3, 15, effort);
    case BlockType::kQ4_K:
      return std::make_unique<AffineKGrid<32>>(type, 15, 63, effort);
    case BlockType::kQ5_K:
      return std::make_unique<AffineKGrid<32>>(type, 31, 63, effort);
    default:
      return nullptr;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
