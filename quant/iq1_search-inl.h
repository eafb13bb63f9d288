// The best of the 2048 ternary vectors of IQ1 for weights in lanes. Nearest vectors are found
// exactly: the cost of a vector is that of its first four values plus that of its last four; there
// are 81 of either, so with their costs in tables all 2048 sums are 2048 additions and minima, for
// all rows at once.
#include <algorithm>

#include "quant/codec_blocks.h"
#include "quant/iq1_book.h"
#include "quant/lanes-inl.h"

#if defined(PENNYWEIGHT_QUANT_IQ1_SEARCH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_IQ1_SEARCH_INL_H_
#undef PENNYWEIGHT_QUANT_IQ1_SEARCH_INL_H_
#else
#define PENNYWEIGHT_QUANT_IQ1_SEARCH_INL_H_
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
}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
