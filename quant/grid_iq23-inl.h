// IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S: super-blocks of 256 with an fp16 scale d, sub-blocks of 32 or
// 16 with a scale d (2 l + 1) step, l in [0, 15], and words of 8 or 4 magnitudes out of a codebook.
//
// Every word is tried, at every step (quant/iq_search-inl.h):
//  1. Each sub-block on its own: the gains of a few scales around the one that its second and
//     fourth moments suggest, each with its best words; least squares for the words of the best.
//  2. The unit d step whose multiples lie closest to those scales. A miss e of a scale costs
//     e^2 sum h g^2, so this needs no words.
//  3. For each sub-block the better of the two levels next to its scale, by true error; then d by
//     least squares for all words.
//  4. The words once more, under the scales as stored; here the wrong sign that an odd number of
//     minus signs forces is chosen together with the word.
// The moments make four trials enough: twelve take 0.1 to 0.6 percent off the error.
#include <algorithm>
#include <memory>

#include "quant/effort.h"
#include "quant/grid.h"
#include "quant/iq_choose-inl.h"
#include "quant/iq_pack.h"

#if defined(PENNYWEIGHT_QUANT_GRID_IQ23_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_GRID_IQ23_INL_H_
#undef PENNYWEIGHT_QUANT_GRID_IQ23_INL_H_
#else
#define PENNYWEIGHT_QUANT_GRID_IQ23_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {

// kDims: values of a word. kParity: seven signs are stored for eight values.
template <int kDims, bool kParity>
class IqGrid final : public BlockGrid {
 public:
  IqGrid(BlockType type, int64_t sub, float step, Effort effort)
      : BlockGrid(kWidth, sub, kUnit, TraitsOf(type).bytes),
        type_(type),
        step_(step),
        search_(effort),
        index_(IndexOf(type)),
        chooser_(index_, search_.proposals) {}

  void BeginBlock(const float* w, const float* h, ScaleSearch search) override {
    std::copy_n(h, kWidth, h_);
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      if (search == ScaleSearch::kSearch) {
        Fit(w + l, l);
      } else {
        FitMinMax(w + l, l);
      }
    }
  }

  void BeginSubBlock(int64_t s, const float* w, const float* h) override {
    HWY_ALIGN float u[32 * kLanes];
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      Prepare(w + l, h, sub_block(), LoadCol(up_ + l, 0), u);
      const SubFitV fit = FitSub(u, h);
      const V unit = hn::Mul(hn::Mul(LoadCol(d_ + l, 0), LoadCol(up_ + l, 0)), Splat(step_));
      StoreCol(FindLevel(u, h, fit.scale, unit).level, levels_ + l, s);
    }
  }

  void Round(int64_t i, const float* w, const float* r, int64_t stride, float* decoded) override {
    const hn::RebindToSigned<LaneTag> di;
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const V up = LoadCol(up_ + l, 0);
      const V level = LoadCol(levels_ + l, i / sub_block());
      const V scale = hn::Mul(hn::Mul(LoadCol(d_ + l, 0), Splat(step_)),
                              hn::Add(hn::Add(level, level), Splat(1.0f)));
      typename Chooser::Codes best;
      HWY_ALIGN float x[kUnit * kLanes];
      for (int64_t j = 0; j < kUnit; ++j) StoreCol(Normalized(w + l, j, up), x, j);
      if (r == nullptr) {
        chooser_.Choose(x, h_ + i, hn::Mul(scale, up), &best);
      } else {
        chooser_.ChooseCorrelated(x, r, stride, hn::Mul(scale, up), &best);
      }
      for (int64_t j = 0; j < kUnit; ++j) {
        StoreCol(hn::Mul(scale, LoadCol(best.values, j)), decoded + l, j);
      }
      for (int64_t k = 0; k < kWords; ++k) {
        hn::Store(hn::Load(di, best.places + k * kLanes), di,
                  places_ + (i / kDims + k) * kLanes + l);
      }
      hn::Store(hn::ConvertTo(di, LoadCol(best.signs, 0)), di, signs_ + i / kUnit * kLanes + l);
    }
  }

  void TakeLanes(const BlockGrid& other, const LaneMask& lanes) override {
    const auto& from = static_cast<const IqGrid&>(other);
    pennyweight::TakeLanes(from.up_, 1, lanes, up_);
    pennyweight::TakeLanes(from.d_, 1, lanes, d_);
    pennyweight::TakeLanes(from.levels_, 16, lanes, levels_);
    pennyweight::TakeLanes(from.places_, 64, lanes, places_);
    pennyweight::TakeLanes(from.signs_, 64, lanes, signs_);
  }

  void Pack(uint8_t* out) const override {
    for (int64_t l = 0; l < kLanes; ++l, out += packed_bytes()) {
      IqCodes codes;
      codes.d = d_[l];
      for (int64_t k = 0; k < kWidth / kDims; ++k) {
        const auto place = static_cast<size_t>(places_[k * kLanes + l]);
        codes.entries[k] = static_cast<uint16_t>(index_.entry[place]);
      }
      for (int64_t k = 0; k < kWidth / kUnit; ++k) {
        const int32_t signs = signs_[k * kLanes + l] << (k * kUnit % 8);
        uint8_t& byte = codes.signs[k * kUnit / 8];
        byte = static_cast<uint8_t>(byte | signs);
      }
      for (int64_t k = 0; k < kWidth / sub_block(); ++k) {
        codes.levels[k] = static_cast<uint8_t>(levels_[k * kLanes + l]);
      }
      PackIq23(type_, codes, out);
    }
  }

 private:
  static constexpr int64_t kWidth = 256;
  using Chooser = IqChooser<kDims, kParity>;
  static constexpr int64_t kUnit = Chooser::kUnit;
  static constexpr int64_t kWords = Chooser::kWords;

  static constexpr int kUnits = 14;    // units that FitUnit tries
  static constexpr int kTogether = 4;  // scales tried in one pass over a codebook
  static constexpr int kMaxTrials = 12;

  // How long to search.
  struct Search {
    explicit Search(Effort effort) {
      float factor = 0.85f, step = 1.15f;
      if (effort == Effort::kFast) {
        refit = false;
        proposals = 0;
      } else if (effort == Effort::kBest) {
        trials = kMaxTrials;
        rounds = 2;
        proposals = 6;
        factor = 0.65f;
        step = 1.09f;
      }
      for (int t = 0; t < trials; ++t, factor *= step) factors[t] = factor;
    }
    int trials = 4;                  // scales of a sub-block
    bool refit = true;               // the best of them by least squares
    int rounds = 1;                  // choices of levels, and fits of d to the words
    int proposals = 2;               // proposals of codes under a full metric
    float factors[kMaxTrials] = {};  // of the trials
  };

  // What a sub-block wants: its scale, and the squared values of its words, which a miss of the
  // scale costs.
  struct SubFitV {
    V scale, weight;
  };

  // Column j of w times `up`. What gptq aims at can be far above the weights that `up` was found
  // for; beyond 1e8 it would overflow, and any codes are as good.
  static V Normalized(const float* w, int64_t j, V up) {
    return ClampV(hn::Mul(LoadCol(w, j), up), Splat(-1e8f), Splat(1e8f));
  }

  // u[n] = 2 h |x| of x = w up. Of an odd number of minus signs in eight the smallest u is made
  // negative: not always the best choice, but near enough to fit scales by.
  static void Prepare(const float* w, const float* h, int64_t n, V up, float* u) {
    const LaneTag d;
    for (int64_t i = 0; i < n; i += 8) {
      V least = Splat(1e30f), parity = hn::Zero(d);
      for (int64_t j = i; j < i + 8; ++j) {
        const V x = Normalized(w, j, up);
        const V v = hn::Mul(hn::Abs(x), Splat(2 * h[j]));
        StoreCol(v, u, j);
        least = hn::Min(least, v);
        const VMask minus = hn::Lt(x, hn::Zero(d));
        parity = hn::IfThenElse(minus, hn::Sub(Splat(1.0f), parity), parity);
      }
      if constexpr (!kParity) continue;
      VMask open = hn::Gt(parity, hn::Zero(d));
      for (int64_t j = i; j < i + 8; ++j) {
        const V v = LoadCol(u, j);
        const VMask flip = hn::And(open, hn::Le(v, least));
        StoreCol(hn::IfThenElse(flip, hn::Neg(v), v), u, j);
        open = hn::AndNot(flip, open);
      }
    }
  }

  // What each scale takes off the squared error of a sub-block.
  void Gains(const float* u, const float* h, const V (&scales)[kTogether],
             V (&gains)[kTogether]) const {
    for (V& v : gains) v = hn::Zero(LaneTag());
    for (int64_t i = 0; i < sub_block(); i += kDims) {
      V best[kTogether];
      BestScores<kDims>(index_, u + i * kLanes, h + i, scales, best);
      for (int t = 0; t < kTogether; ++t) gains[t] = hn::Add(gains[t], best[t]);
    }
    for (int t = 0; t < kTogether; ++t) gains[t] = hn::Mul(gains[t], scales[t]);
  }

  // The scale of a sub-block on its own: trials around what its size suggests, then least squares.
  SubFitV FitSub(const float* u, const float* h) const {
    const V zero = hn::Zero(LaneTag());
    V second = zero, fourth = zero;  // moments of x under h
    float sum = 0;
    for (int64_t i = 0; i < sub_block(); ++i) {
      const V x = hn::Mul(LoadCol(u, i), Splat(0.5f / h[i]));
      const V square = hn::Mul(x, x), weighted = hn::Mul(Splat(h[i]), square);
      second = hn::Add(second, weighted);
      fourth = hn::Add(fourth, hn::Mul(weighted, square));
      sum += h[i];
    }
    // What fits best grows with the tails: as (m4^(3/2) / m2)^(1/4). Weights of one magnitude are
    // best coded as the lowest value throughout.
    const V mean = Splat(1.0f / sum);
    const V m2 = hn::Mul(second, mean), m4 = hn::Mul(fourth, mean);
    const V root = hn::Sqrt(m4);
    const V tails = hn::Sqrt(hn::Mul(root, hn::Sqrt(DivOrZero(root, m2))));
    const float top = index_.level_values[index_.levels - 1];
    const V usual = hn::Mul(tails, Splat((kDims == 8 ? 1.3f : 1.6f) / top));
    const V flat = hn::Mul(hn::Sqrt(m2), Splat(1 / index_.level_values[0]));
    const VMask is_flat = hn::Lt(m4, hn::Mul(hn::Mul(m2, m2), Splat(1.1f)));
    const V start = hn::IfThenElse(is_flat, flat, usual);
    V best = start, best_gain = zero;
    for (int t = 0; t < search_.trials; t += kTogether) {
      V scales[kTogether], gains[kTogether];
      for (int k = 0; k < kTogether; ++k) {
        scales[k] = hn::Mul(start, Splat(search_.factors[t + k]));
      }
      Gains(u, h, scales, gains);
      for (int k = 0; k < kTogether; ++k) {
        best = hn::IfThenElse(hn::Gt(gains[k], best_gain), scales[k], best);
        best_gain = hn::Max(best_gain, gains[k]);
      }
    }
    // Of a least-squares scale the gain would be scale^2 times its weight.
    if (!search_.refit) return {best, DivOrZero(best_gain, hn::Mul(best, best))};
    const V scales[1] = {best};
    SumsV sums[1];
    SumWords(u, h, scales, sums);
    const V scale = DivOrZero(hn::Mul(sums[0].ug, Splat(0.5f)), sums[0].gg);
    return {hn::Max(scale, zero), sums[0].gg};
  }

  // Sums over the best words of a sub-block: the least-squares scale for them is ug / 2 gg.
  struct SumsV {
    V ug;  // sum u g
    V gg;  // sum h g^2
  };
  template <int N>
  void SumWords(const float* u, const float* h, const V (&scales)[N], SumsV (&sums)[N]) const {
    for (SumsV& s : sums) s.ug = s.gg = hn::Zero(LaneTag());
    for (int64_t i = 0; i < sub_block(); i += kDims) {
      FoundV found[N];
      FindWords<kDims>(index_, u + i * kLanes, h + i, scales, found);
      for (int t = 0; t < N; ++t) {
        const VI place = PlaceOf(index_, found[t]);
        for (int j = 0; j < kDims; ++j) {
          const V g = ValueOf(index_, place, j);
          sums[t].ug = hn::Add(sums[t].ug, hn::Mul(LoadCol(u, i + j), g));
          sums[t].gg = hn::Add(sums[t].gg, hn::Mul(hn::Mul(Splat(h[i + j]), g), g));
        }
      }
    }
  }

  // The better of the two levels next to a scale, and its sums. unit = d step.
  struct LevelV {
    V level;
    SumsV sums;
  };
  LevelV FindLevel(const float* u, const float* h, V scale, V unit) const {
    const V zero = hn::Zero(LaneTag()), one = Splat(1.0f);
    const V half = hn::Mul(hn::Sub(DivOrZero(scale, unit), one), Splat(0.5f));
    const V low = NearestV(ClampV(hn::Sub(half, Splat(0.5f)), zero, Splat(14.0f)));
    const V scales[2] = {hn::Mul(unit, hn::Add(hn::Add(low, low), one)),
                         hn::Mul(unit, hn::Add(hn::Add(low, low), Splat(3.0f)))};
    SumsV sums[2];
    SumWords(u, h, scales, sums);
    const auto gain = [&](int t) {
      return hn::Mul(scales[t], hn::Sub(sums[t].ug, hn::Mul(scales[t], sums[t].gg)));
    };
    const VMask high = hn::Gt(gain(1), gain(0));
    return {hn::IfThenElse(high, hn::Add(low, one), low),
            {hn::IfThenElse(high, sums[1].ug, sums[0].ug),
             hn::IfThenElse(high, sums[1].gg, sums[0].gg)}};
  }

  static V LevelOf(V scale, V inverse_unit) {
    const V v = hn::Mul(hn::Sub(hn::Mul(scale, inverse_unit), Splat(1.0f)), Splat(0.5f));
    return NearestV(ClampV(v, hn::Zero(LaneTag()), Splat(15.0f)));
  }

  // The unit d step, as stored, whose multiples 1, 3, ... 31 lie best to the scales of the
  // sub-blocks. `stored` rounds a unit.
  template <class Stored>
  V FitUnit(const float* scales, const float* weights, const Stored& stored) const {
    const int64_t subs = kWidth / sub_block();
    V top = hn::Zero(LaneTag());
    for (int64_t s = 0; s < subs; ++s) top = hn::Max(top, LoadCol(scales, s));
    V best = hn::Zero(LaneTag()), best_cost = Splat(1e30f);
    for (int t = 0; t < kUnits; ++t) {
      V unit = hn::Mul(top, Splat(1.0f / (33.0f - static_cast<float>(t))));
      V sx = hn::Zero(LaneTag()), ss = sx;
      for (int pass = 0; pass < 2; ++pass) {  // as it is, and by least squares for its levels
        unit = stored(pass == 0 ? unit : DivOrZero(sx, ss));
        const V inverse = DivOrZero(Splat(1.0f), unit);
        V cost = hn::Zero(LaneTag());
        sx = ss = cost;
        for (int64_t s = 0; s < subs; ++s) {
          const V x = LoadCol(scales, s), c = LoadCol(weights, s);
          const V level = LevelOf(x, inverse);
          const V m = hn::Add(hn::Add(level, level), Splat(1.0f));
          const V e = hn::Sub(x, hn::Mul(unit, m));
          cost = hn::Add(cost, hn::Mul(c, hn::Mul(e, e)));
          sx = hn::Add(sx, hn::Mul(c, hn::Mul(m, x)));
          ss = hn::Add(ss, hn::Mul(c, hn::Mul(m, m)));
        }
        const VMask better = hn::Lt(cost, best_cost);
        best = hn::IfThenElse(better, unit, best);
        best_cost = hn::Min(cost, best_cost);
      }
    }
    return best;
  }

  void Fit(const float* w, int64_t l) {
    HWY_ALIGN float u[kWidth * kLanes];
    HWY_ALIGN float scales[16 * kLanes];
    HWY_ALIGN float weights[16 * kLanes];
    const V up = Normalizer(MaxMagnitude(w, kWidth));
    const V down = hn::Div(Splat(1.0f), up);
    StoreCol(up, up_ + l, 0);
    Prepare(w, h_, kWidth, up, u);
    const int64_t sub = sub_block(), subs = kWidth / sub;
    for (int64_t s = 0; s < subs; ++s) {
      const SubFitV fit = FitSub(u + s * sub * kLanes, h_ + s * sub);
      StoreCol(fit.scale, scales, s);
      StoreCol(fit.weight, weights, s);
    }
    const V step = Splat(step_), inverse_step = Splat(1.0f / step_);
    const auto stored = [&](V unit) {
      const V d = RoundToF16(hn::Mul(hn::Mul(unit, inverse_step), down));
      return hn::Mul(hn::Mul(d, up), step);
    };
    V unit = FitUnit(scales, weights, stored);
    for (int round = 0; round < search_.rounds; ++round) {
      V ug = hn::Zero(LaneTag()), gg = ug;
      for (int64_t s = 0; s < subs; ++s) {
        const float* us = u + s * sub * kLanes;
        const LevelV found = FindLevel(us, h_ + s * sub, LoadCol(scales, s), unit);
        StoreCol(found.level, levels_ + l, s);
        const V m = hn::Add(hn::Add(found.level, found.level), Splat(1.0f));
        ug = hn::Add(ug, hn::Mul(found.sums.ug, m));
        gg = hn::Add(gg, hn::Mul(found.sums.gg, hn::Mul(m, m)));
      }
      // Least squares for these words; kept where rounding has not made it worse.
      const auto gain = [&](V v) { return hn::Mul(v, hn::Sub(ug, hn::Mul(v, gg))); };
      const V next = stored(DivOrZero(hn::Mul(ug, Splat(0.5f)), gg));
      unit = hn::IfThenElse(hn::Gt(gain(next), gain(unit)), next, unit);
    }
    StoreCol(hn::Mul(hn::Mul(unit, inverse_step), down), d_ + l, 0);
  }

  // The largest magnitude of a sub-block is the largest value of the codebook.
  void FitMinMax(const float* w, int64_t l) {
    const V up = Normalizer(MaxMagnitude(w, kWidth));
    StoreCol(up, up_ + l, 0);
    const float top = index_.level_values[index_.levels - 1] * step_;
    const V d = RoundToF16(hn::Div(MaxMagnitude(w, kWidth), Splat(31 * top)));
    StoreCol(d, d_ + l, 0);
    const V inverse = DivOrZero(Splat(1.0f), hn::Mul(d, Splat(top)));
    for (int64_t s = 0; s < kWidth / sub_block(); ++s) {
      const V size = MaxMagnitude(w + s * sub_block() * kLanes, sub_block());
      StoreCol(LevelOf(size, inverse), levels_ + l, s);
    }
  }

  BlockType type_;
  float step_;
  Search search_;
  const CodebookIndex& index_;
  Chooser chooser_;
  float h_[kWidth] = {};
  alignas(kLaneAlign) float up_[kLanes] = {};
  alignas(kLaneAlign) float d_[kLanes] = {};              // as stored
  alignas(kLaneAlign) float levels_[16 * kLanes] = {};    // l of each sub-block
  alignas(kLaneAlign) int32_t places_[64 * kLanes] = {};  // of words in the index
  alignas(kLaneAlign) int32_t signs_[64 * kLanes] = {};   // of units
};

std::unique_ptr<BlockGrid> MakeIq23GridImpl(BlockType type, Effort effort) {
  switch (type) {
    case BlockType::kIQ2_XXS:
      return std::make_unique<IqGrid<8, true>>(type, 32, 0.125f, effort);
    case BlockType::kIQ2_XS:
      return std::make_unique<IqGrid<8, true>>(type, 16, 0.125f, effort);
    case BlockType::kIQ2_S:
      return std::make_unique<IqGrid<8, false>>(type, 16, 0.125f, effort);
    case BlockType::kIQ3_XXS:
      return std::make_unique<IqGrid<4, true>>(type, 32, 0.25f, effort);
    case BlockType::kIQ3_S:
      return std::make_unique<IqGrid<4, false>>(type, 32, 1.0f, effort);
    default:
      return nullptr;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
