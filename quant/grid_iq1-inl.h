// IQ1_S and IQ1_M: super-blocks of 256; eight values together are one of 2048 ternary vectors g,
// and value = d (2 s + 1) (g + delta), delta = +-1/8. IQ1_S has s and the sign of delta for 32
// values, IQ1_M has s for 16 and the sign for 8.
//
// Nearest vectors are found exactly. The cost of a vector is that of its first four values plus
// that of its last four; there are 81 of either, so with their costs in tables all 2048 sums are
// 2048 additions and minima, for all rows at once.
//
// Search: for each scaled part, the real scale and sign of delta by trial scales with free ternary
// values (no codebook); nearest vectors at these; least squares for the scale. Then d and s so that
// the quadratic form of each part's error at these vectors is least. Round finds the nearest
// vectors once more, for the scales as stored.
#include <algorithm>
#include <cmath>
#include <memory>

#include "quant/codec_blocks.h"
#include "quant/grid.h"
#include "quant/iq1_book.h"
#include "quant/lanes-inl.h"

#if defined(PENNYWEIGHT_QUANT_GRID_IQ1_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_GRID_IQ1_INL_H_
#undef PENNYWEIGHT_QUANT_GRID_IQ1_INL_H_
#else
#define PENNYWEIGHT_QUANT_GRID_IQ1_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {

// Costs of the 81 halves for all lanes.
using HalfCosts = float[kTernaryHalves * kLanes];

// The best vector of eight ternary values in each lane.
struct TernaryChoice {
  alignas(kLaneAlign) float cost[kLanes];
  alignas(kLaneAlign) int32_t first[kLanes];   // half
  alignas(kLaneAlign) int32_t second[kLanes];  // half
  alignas(kLaneAlign) int32_t entry[kLanes];   // index in the codebook
};

class Iq1Search {
 public:
  Iq1Search() : book_(GetIq1Book()) {}
  const Iq1Book& book() const { return book_; }

  // The vector of least sum h (x - scale (g + delta))^2 for x[8] in lanes.
  void Nearest(const float* x, const float* h, const float* scale, const float* delta,
               TernaryChoice* out) {
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const V s = LoadCol(scale + l, 0), o = LoadCol(delta + l, 0);
      FillCosts(x + l, h, s, o, first_ + l);
      FillCosts(x + 4 * kLanes + l, h + 4, s, o, second_ + l);
      FindBest(l, out);
    }
    FindSecond(out);
  }

  // The vector of least |(x - scale (g + delta)) R|^2 for R[8, 8] upper triangular.
  void NearestUnder(const float* x, const float* r, int64_t stride, const float* scale,
                    const float* delta, TernaryChoice* out);

 private:
  static constexpr int kShortlist = 6;  // first halves that NearestUnder looks at closely

  // costs[half] = sum over four columns of h (x - scale (t + delta))^2.
  static void FillCosts(const float* x, const float* h, V scale, V delta, float* costs) {
    V c[4][3];
    for (int j = 0; j < 4; ++j) {
      for (int t = 0; t < 3; ++t) {
        const V value = hn::Mul(scale, hn::Add(Splat(static_cast<float>(t - 1)), delta));
        const V e = hn::Sub(LoadCol(x, j), value);
        c[j][t] = hn::Mul(Splat(h[j]), hn::Mul(e, e));
      }
    }
    V low[9];
    for (int i = 0; i < 9; ++i) low[i] = hn::Add(c[0][i % 3], c[1][i / 3]);
    for (int k = 0; k < 9; ++k) {
      const V high = hn::Add(c[2][k % 3], c[3][k / 3]);
      for (int i = 0; i < 9; ++i) StoreCol(hn::Add(low[i], high), costs, k * 9 + i);
    }
  }

  // The least cost of a second half that goes with `first`.
  V LeastSecond(int first, int64_t l) const {
    const LaneTag d;
    const float* costs = second_ + l;
    const uint16_t* at = book_.column.data() + book_.start[static_cast<size_t>(first)];
    const uint16_t* end = book_.column.data() + book_.start[static_cast<size_t>(first) + 1];
    V a = Splat(3e38f), b = a, c = a, e = a;
    for (; at + 4 <= end; at += 4) {
      a = hn::Min(a, hn::Load(d, costs + at[0]));
      b = hn::Min(b, hn::Load(d, costs + at[1]));
      c = hn::Min(c, hn::Load(d, costs + at[2]));
      e = hn::Min(e, hn::Load(d, costs + at[3]));
    }
    for (; at < end; ++at) a = hn::Min(a, hn::Load(d, costs + *at));
    return hn::Min(hn::Min(a, b), hn::Min(c, e));
  }

  void FindBest(int64_t l, TernaryChoice* out) {
    const LaneTag d;
    const hn::Rebind<int32_t, LaneTag> di;
    V best = Splat(3e38f), best_second = best, best_first = hn::Zero(d);
    for (int i = 0; i < kTernaryHalves; ++i) {
      const V least = LeastSecond(i, l);
      const V total = hn::Add(LoadCol(first_ + l, i), least);
      const VMask better = hn::Lt(total, best);
      best = hn::IfThenElse(better, total, best);
      best_second = hn::IfThenElse(better, least, best_second);
      best_first = hn::IfThenElse(better, Splat(static_cast<float>(i)), best_first);
    }
    hn::Store(best, d, out->cost + l);
    hn::Store(best_second, d, least_ + l);
    hn::Store(hn::ConvertTo(di, best_first), di, out->first + l);
  }

  // Which second half had the cost that FindBest kept.
  void FindSecond(TernaryChoice* out) const {
    for (int64_t l = 0; l < kLanes; ++l) Pick(out->first[l], second_ + l, least_[l], l, out);
  }
  void Pick(int first, const float* costs, float least, int64_t l, TernaryChoice* out) const {
    const int begin = book_.start[static_cast<size_t>(first)];
    const int end = book_.start[static_cast<size_t>(first) + 1];
    int k = begin;
    while (k + 1 < end && costs[book_.second[static_cast<size_t>(k)] * kLanes] != least) ++k;
    out->first[l] = first;
    out->second[l] = book_.second[static_cast<size_t>(k)];
    out->entry[l] = book_.entry[static_cast<size_t>(k)];
  }

  // costs[half] = sum over columns j of four of (add_j + sum_{i <= j} e_i R[i, j])^2, with
  // e_i = x_i - scale (t_i + delta): all lanes of one vector.
  static void FillCostsUnder(const float* x, const float* add, const float* r, int64_t stride,
                             V scale, V delta, float* costs);

  const Iq1Book& book_;
  alignas(kLaneAlign) HalfCosts first_, second_;
  alignas(kLaneAlign) float least_[kLanes];
};

inline void Iq1Search::FillCostsUnder(const float* x, const float* add, const float* r,
                                      int64_t stride, V scale, V delta, float* costs) {
  V value[3];
  for (int t = 0; t < 3; ++t) {
    value[t] = hn::Mul(scale, hn::Add(Splat(static_cast<float>(t - 1)), delta));
  }
  // By digits: the cost of the columns so far, and what the misses so far add to those that follow.
  for (int half = 0; half < kTernaryHalves; ++half) {
    V e[4];
    V total = hn::Zero(LaneTag());
    for (int j = 0; j < 4; ++j) {
      e[j] = hn::Sub(LoadCol(x, j), value[TernaryDigit(half, j) + 1]);
      V miss = LoadCol(add, j);
      for (int i = 0; i <= j; ++i) miss = hn::Add(miss, hn::Mul(e[i], Splat(r[i * stride + j])));
      total = hn::Add(total, hn::Mul(miss, miss));
    }
    StoreCol(total, costs, half);
  }
}

inline void Iq1Search::NearestUnder(const float* x, const float* r, int64_t stride,
                                    const float* scale, const float* delta, TernaryChoice* out) {
  const LaneTag d;
  alignas(kLaneAlign) float zero[4 * kLanes] = {};
  float diagonal[4];
  for (int j = 0; j < 4; ++j)
    diagonal[j] = r[(4 + j) * stride + 4 + j] * r[(4 + j) * stride + 4 + j];
  // A shortlist of first halves by their own cost and the least that the second may cost when the
  // first adds nothing to it.
  alignas(kLaneAlign) float list_cost[kShortlist * kLanes], list_first[kShortlist * kLanes];
  for (int64_t l = 0; l < kLanes; l += VWidth()) {
    const V s = LoadCol(scale + l, 0), o = LoadCol(delta + l, 0);
    FillCostsUnder(x + l, zero + l, r, stride, s, o, first_ + l);
    FillCosts(x + 4 * kLanes + l, diagonal, s, o, second_ + l);
    for (int k = 0; k < kShortlist; ++k) {
      StoreCol(Splat(3e38f), list_cost + l, k);
      StoreCol(hn::Zero(d), list_first + l, k);
    }
    for (int i = 0; i < kTernaryHalves; ++i) {
      V cost = hn::Add(LoadCol(first_ + l, i), LeastSecond(i, l));
      V half = Splat(static_cast<float>(i));
      for (int k = 0; k < kShortlist; ++k) {  // insertion, least first
        const V held = LoadCol(list_cost + l, k), held_half = LoadCol(list_first + l, k);
        const VMask better = hn::Lt(cost, held);
        StoreCol(hn::IfThenElse(better, cost, held), list_cost + l, k);
        StoreCol(hn::IfThenElse(better, half, held_half), list_first + l, k);
        cost = hn::IfThenElse(better, held, cost);
        half = hn::IfThenElse(better, held_half, half);
      }
    }
  }
  for (int64_t l = 0; l < kLanes; ++l) out->cost[l] = 3e38f;
  alignas(kLaneAlign) float add[4 * kLanes];
  for (int k = 0; k < kShortlist; ++k) {
    // What the misses of the first half add to the columns of the second.
    for (int64_t l = 0; l < kLanes; ++l) {
      const int first = static_cast<int>(list_first[k * kLanes + l]);
      float e[4];
      for (int i = 0; i < 4; ++i) {
        const float t = static_cast<float>(TernaryDigit(first, i));
        e[i] = x[i * kLanes + l] - scale[l] * (t + delta[l]);
      }
      for (int j = 0; j < 4; ++j) {
        float sum = 0;
        for (int i = 0; i < 4; ++i) sum += e[i] * r[i * stride + 4 + j];
        add[j * kLanes + l] = sum;
      }
    }
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      FillCostsUnder(x + 4 * kLanes + l, add + l, r + 4 * stride + 4, stride, LoadCol(scale + l, 0),
                     LoadCol(delta + l, 0), second_ + l);
    }
    for (int64_t l = 0; l < kLanes; ++l) {
      const int first = static_cast<int>(list_first[k * kLanes + l]);
      float least = 3e38f;
      for (size_t at = book_.start[static_cast<size_t>(first)];
           at < book_.start[static_cast<size_t>(first) + 1]; ++at) {
        least = std::min(least, second_[book_.second[at] * kLanes + l]);
      }
      const float total = first_[first * kLanes + l] + least;
      if (!(total < out->cost[l])) continue;
      out->cost[l] = total;
      Pick(first, second_ + l, least, l, out);
    }
  }
}

class Iq1Grid final : public BlockGrid {
 public:
  Iq1Grid(BlockType type, Effort effort)
      : BlockGrid(kSuper, type == BlockType::kIQ1_S ? 32 : 16, kUnit, TraitsOf(type).bytes),
        is_s_(type == BlockType::kIQ1_S),
        parts_(kSuper / sub_block()),
        effort_(effort) {}

  void BeginBlock(const float* w, const float* h, ScaleSearch search) override {
    std::copy(h, h + kSuper, importance_);
    for (int64_t p = 0; p < parts_; ++p) {
      const int64_t c = p * sub_block();
      if (search == ScaleSearch::kSearch) {
        FitPart(p, w + c * kLanes, h + c);
      } else {
        PlainPart(p, w + c * kLanes);
      }
    }
    FitSuper(search);
  }

  void BeginSubBlock(int64_t s, const float* w, const float* h) override {
    std::copy(h, h + sub_block(), importance_ + s * sub_block());
    FitPart(s, w, h);
    ChooseCodes(s);
    FixScale(s);
  }

  void Round(int64_t i, const float* w, const float* r, int64_t stride, float* decoded) override {
    const int64_t part = i / sub_block();
    const float* scale = stored_ + part * kLanes;
    const int64_t unit = i / kUnit;
    const auto find = [&](const float* delta, TernaryChoice* choice) {
      if (r == nullptr) {
        search_.Nearest(w, importance_ + i, scale, delta, choice);
      } else {
        search_.NearestUnder(w, r, stride, scale, delta, choice);
      }
    };
    float* delta = delta_ + unit * kLanes;
    TernaryChoice choice;
    if (is_s_) {
      for (int64_t l = 0; l < kLanes; ++l) delta[l] = part_delta_[part * kLanes + l];
      find(delta, &choice);
    } else {
      FindEitherSign(find, delta, &choice);
    }
    for (int64_t l = 0; l < kLanes; ++l) {
      entry_[unit * kLanes + l] = static_cast<uint16_t>(choice.entry[l]);
    }
    Decode(choice, scale, delta, decoded);
  }

  void TakeLanes(const BlockGrid& other, const LaneMask& lanes) override {
    const auto& from = static_cast<const Iq1Grid&>(other);
    pennyweight::TakeLanes(from.part_delta_, kMaxParts, lanes, part_delta_);
    pennyweight::TakeLanes(from.stored_, kMaxParts, lanes, stored_);
    pennyweight::TakeLanes(from.code_, kMaxParts, lanes, code_);
    pennyweight::TakeLanes(from.d_, 1, lanes, d_);
    pennyweight::TakeLanes(from.delta_, kUnits, lanes, delta_);
    pennyweight::TakeLanes(from.entry_, kUnits, lanes, entry_);
  }

  void Pack(uint8_t* out) const override {
    for (int64_t l = 0; l < kLanes; ++l, out += packed_bytes()) {
      std::fill(out, out + packed_bytes(), uint8_t{0});
      if (is_s_) {
        PackS(l, out);
      } else {
        PackM(l, out);
      }
    }
  }

 private:
  static constexpr int64_t kSuper = 256;
  static constexpr int64_t kUnit = 8;
  static constexpr int64_t kUnits = kSuper / kUnit;
  static constexpr int64_t kMaxParts = 16;
  static constexpr float kDelta = 0.125f;

  void Decode(const TernaryChoice& choice, const float* scale, const float* delta,
              float* out) const {
    const Iq1Book& book = search_.book();
    for (int64_t l = 0; l < kLanes; ++l) {
      const float* a = book.values[static_cast<size_t>(choice.first[l])].data();
      const float* b = book.values[static_cast<size_t>(choice.second[l])].data();
      for (int64_t j = 0; j < 4; ++j) {
        out[j * kLanes + l] = a[j];
        out[(j + 4) * kLanes + l] = b[j];
      }
    }
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const V s = LoadCol(scale + l, 0), o = LoadCol(delta + l, 0);
      for (int64_t j = 0; j < kUnit; ++j) {
        StoreCol(hn::Mul(s, hn::Add(LoadCol(out + l, j), o)), out + l, j);
      }
    }
  }

  // The better of both signs of delta for one unit.
  template <class Find>
  static void FindEitherSign(const Find& find, float* delta, TernaryChoice* choice) {
    TernaryChoice other;
    alignas(kLaneAlign) float minus[kLanes];
    std::fill(delta, delta + kLanes, kDelta);
    std::fill(minus, minus + kLanes, -kDelta);
    find(delta, choice);
    find(minus, &other);
    for (int64_t l = 0; l < kLanes; ++l) {
      if (!(other.cost[l] < choice->cost[l])) continue;
      delta[l] = -kDelta;
      choice->cost[l] = other.cost[l];
      choice->first[l] = other.first[l];
      choice->second[l] = other.second[l];
      choice->entry[l] = other.entry[l];
    }
  }

  // The baseline: the largest weight meets the largest value.
  void PlainPart(int64_t p, const float* w) {
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const V amax = MaxMagnitude(w + l, sub_block());
      StoreCol(hn::Div(amax, Splat(1 + kDelta)), real_ + l, p);
      StoreCol(Splat(1.0f), qq_ + l, p);
      StoreCol(Splat(kDelta), part_delta_ + l, p);
    }
  }

  // The sums of a part under free ternary values q = t + delta, t the nearest of -1, 0, 1.
  struct FreeSums {
    V xq, qq;
  };
  FreeSums SumFree(const float* x, const float* h, int64_t n, V inverse, V delta) const {
    FreeSums sums{hn::Zero(LaneTag()), hn::Zero(LaneTag())};
    const V one = Splat(1.0f), minus = Splat(-1.0f);
    for (int64_t i = 0; i < n; ++i) {
      const V xi = LoadCol(x, i);
      const V t = NearestV(ClampV(hn::Sub(hn::Mul(xi, inverse), delta), minus, one));
      const V q = hn::Add(t, delta);
      const V hq = hn::Mul(Splat(h[i]), q);
      sums.xq = hn::Add(sums.xq, hn::Mul(hq, xi));
      sums.qq = hn::Add(sums.qq, hn::Mul(hq, q));
    }
    return sums;
  }

  // A real scale of the part for each lane, for one sign of delta: the best of a few trials around
  // the root mean square, each with least squares for its codes.
  void TrialScales(const float* x, const float* h, float delta, float* scale, float* gain) const {
    static constexpr float kRatios[] = {0.8f, 1.05f, 1.35f, 1.8f};
    const int64_t n = sub_block();
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      V power = hn::Zero(LaneTag());
      float weights = 0;
      for (int64_t i = 0; i < n; ++i) {
        const V xi = LoadCol(x + l, i);
        power = hn::Add(power, hn::Mul(Splat(h[i]), hn::Mul(xi, xi)));
        weights += h[i];
      }
      const V rms = hn::Sqrt(hn::Div(power, Splat(weights)));
      V best = hn::Zero(LaneTag()), best_gain = Splat(-1.0f);  // what is gained over zeros
      for (const float ratio : kRatios) {
        const V inverse = DivOrZero(Splat(1.0f), hn::Mul(rms, Splat(ratio)));
        const FreeSums sums = SumFree(x + l, h, n, inverse, Splat(delta));
        const V fit = DivOrZero(sums.xq, sums.qq);
        const V gained = hn::Mul(fit, sums.xq);
        const VMask better = hn::Gt(gained, best_gain);
        best = hn::IfThenElse(better, fit, best);
        best_gain = hn::IfThenElse(better, gained, best_gain);
      }
      StoreCol(hn::Max(best, hn::Zero(LaneTag())), scale + l, 0);
      StoreCol(best_gain, gain + l, 0);
    }
  }

  // Nearest vectors of the part's units at `scale`; sums for its least-squares scale. With `delta`
  // null each unit takes the better sign.
  void SumVectors(const float* x, const float* h, const float* scale, const float* delta, float* xq,
                  float* qq) {
    std::fill(xq, xq + kLanes, 0.0f);
    std::fill(qq, qq + kLanes, 0.0f);
    alignas(kLaneAlign) float q[kUnit * kLanes], ones[kLanes], unit_delta[kLanes];
    std::fill(ones, ones + kLanes, 1.0f);
    TernaryChoice choice;
    for (int64_t i = 0; i < sub_block(); i += kUnit) {
      const auto find = [&](const float* o, TernaryChoice* c) {
        search_.Nearest(x + i * kLanes, h + i, scale, o, c);
      };
      if (delta != nullptr) {
        std::copy(delta, delta + kLanes, unit_delta);
        find(delta, &choice);
      } else {
        FindEitherSign(find, unit_delta, &choice);
      }
      Decode(choice, ones, unit_delta, q);
      for (int64_t l = 0; l < kLanes; l += VWidth()) {
        V a = LoadCol(xq + l, 0), b = LoadCol(qq + l, 0);
        for (int64_t j = 0; j < kUnit; ++j) {
          const V qj = LoadCol(q + l, j);
          const V hq = hn::Mul(Splat(h[i + j]), qj);
          a = hn::Add(a, hn::Mul(hq, LoadCol(x + i * kLanes + l, j)));
          b = hn::Add(b, hn::Mul(hq, qj));
        }
        StoreCol(a, xq + l, 0);
        StoreCol(b, qq + l, 0);
      }
    }
  }

  // The part's real scale, sign of delta (IQ1_S) and what an error of the scale costs.
  void FitPart(int64_t p, const float* w, const float* h) {
    const int64_t n = sub_block();
    alignas(kLaneAlign) float x[32 * kLanes], down[kLanes];
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const V up = Normalizer(MaxMagnitude(w + l, n));
      ScaleCols(w + l, n, up, x + l);
      StoreCol(hn::Div(Splat(1.0f), up), down + l, 0);
    }
    alignas(kLaneAlign) float scale[2][kLanes], gain[2][kLanes], delta[kLanes];
    TrialScales(x, h, kDelta, scale[0], gain[0]);
    TrialScales(x, h, -kDelta, scale[1], gain[1]);
    alignas(kLaneAlign) float best_gain[kLanes];
    std::fill(best_gain, best_gain + kLanes, -1.0f);
    // The sign that is better without the codebook is mostly so with it.
    const int signs = is_s_ && effort_ == Effort::kBest ? 2 : 1;
    for (int s = 0; s < signs; ++s) {
      for (int64_t l = 0; l < kLanes; ++l) {
        const bool minus = (gain[1][l] > gain[0][l]) != (s == 1);
        delta[l] = minus ? -kDelta : kDelta;
        if (s == 0 && minus) std::swap(scale[0][l], scale[1][l]);
      }
      FitVectors(p, x, h, down, delta, scale[s], best_gain);
    }
  }

  // Takes over scale and delta where their vectors, with least squares for the scale, gain more.
  void FitVectors(int64_t p, const float* x, const float* h, const float* down, const float* delta,
                  float* scale, float* best_gain) {
    alignas(kLaneAlign) float xq[kLanes], qq[kLanes];
    for (int round = 0; round < (effort_ == Effort::kBest ? 3 : 1); ++round) {
      SumVectors(x, h, scale, is_s_ ? delta : nullptr, xq, qq);
      for (int64_t l = 0; l < kLanes; ++l) {
        scale[l] = qq[l] > 0 && xq[l] > 0 ? xq[l] / qq[l] : 0;
        const float gain = scale[l] * xq[l];
        if (!(gain > best_gain[l])) continue;
        best_gain[l] = gain;
        const int64_t at = p * kLanes + l;
        real_[at] = scale[l] * down[l];
        qq_[at] = qq[l];
        part_delta_[at] = delta[l];
      }
    }
  }

  // Codes 0 to 7 of a part under the super-block's d.
  void ChooseCodes(int64_t p) {
    for (int64_t l = 0; l < kLanes; ++l) {
      const int64_t at = p * kLanes + l;
      code_[at] = CodeFor(real_[at], d_[l]);
    }
  }
  static int CodeFor(float real, float d) {
    if (d == 0) return 0;
    const float steps = (std::min(real / d, 100.0f) - 1) * 0.5f;
    return std::clamp(static_cast<int>(std::nearbyintf(steps)), 0, 7);
  }
  void FixScale(int64_t p) {
    for (int64_t l = 0; l < kLanes; ++l) {
      const int64_t at = p * kLanes + l;
      stored_[at] = d_[l] * static_cast<float>(2 * code_[at] + 1);
    }
  }

  void FitSuper(ScaleSearch search) {
    for (int64_t l = 0; l < kLanes; ++l) d_[l] = SuperScale(l, search);
    for (int64_t p = 0; p < parts_; ++p) {
      ChooseCodes(p);
      FixScale(p);
    }
  }

  // d for which the codes give the parts' real scales with the least error.
  float SuperScale(int64_t l, ScaleSearch search) const {
    float top = 0;
    for (int64_t p = 0; p < parts_; ++p) top = std::max(top, real_[p * kLanes + l]);
    const auto stored = [](float d) { return F16ToF32(F32ToF16(std::min(d, 65504.0f))); };
    float best = stored(top / 15);
    if (search == ScaleSearch::kMinMax || top == 0) return best;
    const float unit = std::ldexp(1.0f, -std::ilogb(std::max(top, 0x1p-100f)));
    double least = 1e300;
    const int trials = effort_ == Effort::kBest ? 40 : 16;
    for (int t = 0; t < trials; ++t) {
      // Above 1 the largest part is cut short, the others are met the better.
      const float ratio = 0.9f + 1.1f * static_cast<float>(t) / static_cast<float>(trials);
      float d = stored(top / (15 * ratio));
      for (int refit = 0; refit < 2; ++refit) {
        double error = 0, a = 0, b = 0;
        for (int64_t p = 0; p < parts_; ++p) {
          const int64_t at = p * kLanes + l;
          const double c = 2 * CodeFor(real_[at], d) + 1;
          const double miss = (static_cast<double>(real_[at]) - d * c) * unit;
          error += qq_[at] * miss * miss;
          a += qq_[at] * c * real_[at];
          b += qq_[at] * c * c;
        }
        if (error < least) {
          least = error;
          best = d;
        }
        if (b > 0) d = stored(static_cast<float>(a / b));
      }
    }
    return best;
  }

  void PackS(int64_t l, uint8_t* out) const {
    StoreF16(d_[l], out);
    for (int64_t ib = 0; ib < 8; ++ib) {
      uint32_t word = static_cast<uint32_t>(code_[ib * kLanes + l]) << 12;
      if (part_delta_[ib * kLanes + l] < 0) word |= 0x8000;
      for (int64_t k = 0; k < 4; ++k) {
        const uint32_t entry = entry_[(ib * 4 + k) * kLanes + l];
        out[2 + ib * 4 + k] = static_cast<uint8_t>(entry);
        word |= (entry >> 8) << (3 * k);
      }
      out[34 + ib * 2] = static_cast<uint8_t>(word);
      out[35 + ib * 2] = static_cast<uint8_t>(word >> 8);
    }
  }

  void PackM(int64_t l, uint8_t* out) const {
    for (int64_t u = 0; u < kUnits; ++u) {
      const uint32_t entry = entry_[u * kLanes + l];
      out[u] = static_cast<uint8_t>(entry);
      const uint32_t nibble = (entry >> 8) | (delta_[u * kLanes + l] < 0 ? 8u : 0u);
      out[32 + u / 2] = static_cast<uint8_t>(out[32 + u / 2] | nibble << (u % 2 * 4));
    }
    const uint32_t d = F32ToF16(d_[l]);
    for (int64_t k = 0; k < 4; ++k) {
      uint32_t word = (d >> (4 * k) & 15) << 12;
      for (int64_t i = 0; i < 4; ++i) {
        word |= static_cast<uint32_t>(code_[(4 * k + i) * kLanes + l]) << (3 * i);
      }
      out[48 + k * 2] = static_cast<uint8_t>(word);
      out[49 + k * 2] = static_cast<uint8_t>(word >> 8);
    }
  }

  bool is_s_;
  int64_t parts_;
  Effort effort_;
  Iq1Search search_;
  float importance_[kSuper] = {};
  alignas(kLaneAlign) float real_[kMaxParts * kLanes] = {};  // scales before they are coded
  alignas(kLaneAlign) float qq_[kMaxParts * kLanes] = {};    // sum h q^2 of each part
  alignas(kLaneAlign) float part_delta_[kMaxParts * kLanes] = {};
  alignas(kLaneAlign) float stored_[kMaxParts * kLanes] = {};  // scales as stored
  alignas(kLaneAlign) int code_[kMaxParts * kLanes] = {};
  alignas(kLaneAlign) float d_[kLanes] = {};
  alignas(kLaneAlign) float delta_[kUnits * kLanes] = {};
  alignas(kLaneAlign) uint16_t entry_[kUnits * kLanes] = {};
};

inline std::unique_ptr<BlockGrid> MakeIq1GridImpl(BlockType type, Effort effort) {
  if (type != BlockType::kIQ1_S && type != BlockType::kIQ1_M) return nullptr;
  return std::make_unique<Iq1Grid>(type, effort);
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
