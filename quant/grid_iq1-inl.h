// IQ1_S and IQ1_M: super-blocks of 256; eight values together are one of 2048 ternary vectors g,
// and value = d (2 s + 1) (g + delta), delta = +-1/8. IQ1_S has s and the sign of delta for 32
// values, IQ1_M has s for 16 and the sign for 8.
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
#include "quant/iq1_search-inl.h"
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
