// Small elements under one scale for each block of a row: bitsandbytes' nf4 and fp4 (the scale is
// the absolute maximum, in F32), fp8_e4m3 and fp8_e5m2 with a scale for the row or for some columns
// of it. For gptq; minmax and rtn have encoders of their own (quant/encode_codebook.h,
// quant/encode_scaled.h), and the search is theirs: scales around that which meets the largest
// weight, then least squares for the codes of the best, each judged by its true error.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "quant/element_kernels.h"
#include "quant/element_search.h"
#include "quant/grid.h"
#include "quant/lane_pack-inl.h"
#include "quant/lanes-inl.h"

#if defined(PENNYWEIGHT_QUANT_GRID_ELEMENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_GRID_ELEMENTS_INL_H_
#undef PENNYWEIGHT_QUANT_GRID_ELEMENTS_INL_H_
#else
#define PENNYWEIGHT_QUANT_GRID_ELEMENTS_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {

// An element and its code, the latter as a number.
struct ElementV {
  V value;
  V code;
};

// Tables of 16 levels, in ascending order with their codes.
class LevelElements {
 public:
  explicit LevelElements(std::span<const float> levels) {
    std::array<int, 16> order;
    for (int i = 0; i < 16; ++i) order[static_cast<size_t>(i)] = i;
    const auto level = [&](int i) { return levels[static_cast<size_t>(i)]; };
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return level(a) < level(b); });
    for (const int code : order) {
      // Two codes of one value (fp4 has a zero of either sign): the first.
      if (count_ > 0 && level(code) == values_[count_ - 1]) continue;
      if (count_ > 0) middles_[count_ - 1] = 0.5f * (values_[count_ - 1] + level(code));
      values_[count_] = level(code);
      codes_[count_++] = static_cast<float>(code);
    }
  }
  static constexpr float Top() { return 1; }

  HWY_INLINE V Value(V t) const {
    V value = Splat(values_[0]);
    for (size_t i = 1; i < count_; ++i) {
      value = hn::IfThenElse(hn::Gt(t, Splat(middles_[i - 1])), Splat(values_[i]), value);
    }
    return value;
  }
  HWY_INLINE ElementV Element(V t) const {
    V code = Splat(codes_[0]);
    for (size_t i = 1; i < count_; ++i) {
      code = hn::IfThenElse(hn::Gt(t, Splat(middles_[i - 1])), Splat(codes_[i]), code);
    }
    return {Value(t), code};
  }

 private:
  size_t count_ = 0;
  float values_[16], middles_[16], codes_[16];
};

// Floats of 8 bits without infinities that a code could mean: 5 - kMantissa exponent bits, largest
// value kTop.
template <int kMantissa>
class Fp8Elements {
 public:
  static constexpr float Top() { return kMantissa == 3 ? 448.0f : 57344.0f; }

  // To nearest even: adding and taking away 1.5 * 2^23 steps rounds to multiples of the step.
  HWY_INLINE V Value(V t) const {
    const LaneTag d;
    const hn::RebindToUnsigned<LaneTag> du;
    const V magnitude = hn::Min(hn::Abs(t), Splat(Top()));
    const auto bits = hn::BitCast(du, hn::Max(magnitude, Splat(kLeastNormal)));
    const V power = hn::BitCast(d, hn::And(bits, hn::Set(du, 0x7F800000u)));
    const V magic = hn::Mul(power, Splat(12582912.0f / (1 << kMantissa)));
    const V nearest = hn::Sub(hn::Add(magnitude, magic), magic);
    return hn::CopySign(hn::Min(nearest, Splat(Top())), t);
  }
  HWY_INLINE ElementV Element(V t) const {
    const LaneTag d;
    const hn::RebindToSigned<LaneTag> di;
    const V value = Value(t);
    const V magnitude = hn::Abs(value);
    const auto exponent = hn::ShiftRight<23 - kMantissa>(hn::BitCast(di, magnitude));
    const auto normal = hn::Sub(exponent, hn::Set(di, kBelow << kMantissa));
    const V small = hn::Mul(magnitude, Splat((1 << kMantissa) / kLeastNormal));
    V code =
        hn::IfThenElse(hn::Ge(magnitude, Splat(kLeastNormal)), hn::ConvertTo(d, normal), small);
    // Zero has one code, so that equal values are equal bytes.
    const auto negative = hn::Lt(value, hn::Zero(d));
    code = hn::Add(code, hn::IfThenElseZero(negative, Splat(128.0f)));
    return {value, code};
  }

 private:
  static constexpr float kLeastNormal = kMantissa == 3 ? 0x1p-6f : 0x1p-14f;
  static constexpr int kBelow = kMantissa == 3 ? 120 : 112;  // exponents of F32 below the least
};

template <class Elements>
class ElementGrid final : public BlockGrid {
 public:
  // `dead`: what is stored as the scale of weights that are all zero, or too small for one.
  ElementGrid(const Elements& elements, std::span<const float> factors, int64_t width, DType dtype,
              float dead)
      : BlockGrid(width, width, 1, width + DTypeBits(dtype) / 8),
        elements_(elements),
        factors_(factors),
        dtype_(dtype),
        dead_(dead),
        codes_(width * kLanes) {}

  void BeginBlock(const float* w, const float* h, ScaleSearch search) override {
    for (int64_t l = 0; l < kLanes; l += VWidth()) Fit(w + l, h, search, l);
  }
  void BeginSubBlock(int64_t, const float*, const float*) override {}

  void Round(int64_t i, const float* w, const float*, int64_t, float* decoded) override {
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const V x = hn::Mul(hn::Load(LaneTag(), w + l), LoadCol(up_ + l, 0));
      const ElementV e = elements_.Element(hn::Mul(x, LoadCol(inverse_ + l, 0)));
      hn::Store(hn::Mul(e.value, LoadCol(scale_ + l, 0)), LaneTag(), decoded + l);
      StoreCode(e.code, codes_.data() + l, i);
    }
  }

  void TakeLanes(const BlockGrid& other, const LaneMask& lanes) override {
    const auto& from = static_cast<const ElementGrid&>(other);
    pennyweight::TakeLanes(from.scale_, 1, lanes, scale_);
    pennyweight::TakeLanes(from.up_, 1, lanes, up_);
    pennyweight::TakeLanes(from.inverse_, 1, lanes, inverse_);
    pennyweight::TakeLanes(from.codes_.data(), block(), lanes, codes_.data());
  }

  void Pack(uint8_t* out) const override {
    TransposeBytes(codes_.data(), block(), out, packed_bytes());
    out += block();
    for (int64_t l = 0; l < kLanes; ++l, out += packed_bytes()) {
      EncodeFromFloat(dtype_, scale_ + l, out, 1);
    }
  }

 private:
  struct Sums {
    V xq, qq;
  };
  HWY_INLINE Sums SumsOf(const float* w, const float* h, V up, V inverse) const {
    Sums sums{hn::Zero(LaneTag()), hn::Zero(LaneTag())};
    for (int64_t i = 0; i < block(); ++i) {
      const V x = hn::Mul(LoadCol(w, i), up);
      const V q = elements_.Value(hn::Mul(x, inverse));
      const V hq = hn::Mul(Splat(h[i]), q);
      sums.xq = hn::Add(sums.xq, hn::Mul(hq, x));
      sums.qq = hn::Add(sums.qq, hn::Mul(hq, q));
    }
    return sums;
  }

  void Fit(const float* w, const float* h, ScaleSearch search, int64_t l) {
    const V zero = hn::Zero(LaneTag()), one = Splat(1.0f);
    const V most = MaxMagnitude(w, block());
    const V up = Normalizer(most), down = hn::Div(one, up);
    const auto stored = [&](V scale) {
      return hn::Mul(RoundToDType(dtype_, hn::Mul(scale, down)), up);
    };
    const V start = hn::Div(hn::Mul(most, up), Splat(Elements::Top()));
    V best = stored(start);
    if (search == ScaleSearch::kSearch) {
      // What a scale s leaves of sum h x^2: s^2 sum h q^2 - 2 s sum h x q.
      V least = Splat(3e38f), refit = best;
      const auto consider = [&](V scale) {
        const Sums sums = SumsOf(w, h, up, DivOrZero(one, scale));
        const V error = hn::Mul(scale, hn::Sub(hn::Mul(scale, sums.qq), hn::Add(sums.xq, sums.xq)));
        const VMask better = hn::And(hn::Lt(error, least), hn::Gt(scale, zero));
        least = hn::IfThenElse(better, error, least);
        best = hn::IfThenElse(better, scale, best);
        refit = hn::IfThenElse(better, stored(DivOrZero(sums.xq, sums.qq)), refit);
      };
      for (const float factor : factors_) consider(stored(hn::Mul(start, Splat(factor))));
      for (int i = 0; i < 2; ++i) consider(refit);
    }
    // Too small for the scale's dtype, or nothing but zeros: all codes are zero.
    const VMask dead = hn::Not(hn::Gt(best, zero));
    StoreCol(hn::IfThenElse(dead, Splat(dead_), hn::Mul(best, down)), scale_ + l, 0);
    StoreCol(up, up_ + l, 0);
    StoreCol(hn::IfThenElse(dead, zero, hn::Div(one, hn::IfThenElse(dead, one, best))),
             inverse_ + l, 0);
  }

  Elements elements_;
  std::span<const float> factors_;
  DType dtype_;
  float dead_;
  alignas(kLaneAlign) float scale_[kLanes] = {};                      // as stored
  alignas(kLaneAlign) float up_[kLanes] = {}, inverse_[kLanes] = {};  // in normalised terms
  LaneArray<uint8_t> codes_;
};

std::unique_ptr<BlockGrid> MakeElementGridImpl(const Encoding& encoding, int64_t cols) {
  if (encoding.kind == Encoding::Kind::kCodebook) {
    const CodebookSpec& spec = encoding.codebook;
    if (spec.nested_block != 0 || spec.block <= 0 || cols % spec.block != 0) return nullptr;
    return std::make_unique<ElementGrid<LevelElements>>(LevelElements(LevelsOf(spec.book)),
                                                        ScaleFactors(SetOf(spec.book)), spec.block,
                                                        DType::kF32, 0.0f);
  }
  if (encoding.kind != Encoding::Kind::kScaled) return nullptr;
  const ScaledSpec& spec = encoding.scaled;
  if (spec.block_rows != 1 || spec.block_cols < 0 || spec.absmax || spec.divided) return nullptr;
  if (!IsFloatDType(spec.scale_dtype)) return nullptr;
  const int64_t width = spec.block_cols == 0 ? cols : spec.block_cols;
  if (cols % width != 0) return nullptr;
  if (spec.element == DType::kF8E4M3) {
    return std::make_unique<ElementGrid<Fp8Elements<3>>>(
        Fp8Elements<3>(), ScaleFactors(ElementSet::kE4M3), width, spec.scale_dtype, 1.0f);
  }
  if (spec.element != DType::kF8E5M2) return nullptr;
  return std::make_unique<ElementGrid<Fp8Elements<2>>>(
      Fp8Elements<2>(), ScaleFactors(ElementSet::kE5M2), width, spec.scale_dtype, 1.0f);
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
