// Types of few values: TQ1_0 TQ2_0 (-d 0 d), Q1_0 (-d d), Q2_0 (-d 0 d 2d), each with one fp16
// scale d per block.
//
// Q1_0 has a closed form: d is the weighted mean magnitude. The others try a dozen scales from one
// at which all weights but the largest are zero to one at which most are clipped, take the
// least-squares scale of each one's codes, and refit the best two until their codes settle. Q2_0
// tries both signs of d, since its range is lopsided.
#include <algorithm>
#include <array>
#include <memory>

#include "quant/codec_blocks.h"
#include "quant/grid.h"
#include "quant/lane_fit-inl.h"

#if defined(PENNYWEIGHT_QUANT_GRID_TERNARY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_GRID_TERNARY_INL_H_
#undef PENNYWEIGHT_QUANT_GRID_TERNARY_INL_H_
#else
#define PENNYWEIGHT_QUANT_GRID_TERNARY_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {

// Two best candidates of each lane: least score first.
struct BestTwo {
  V score[2];
  V value[2];

  HWY_INLINE BestTwo() {  // not implicit: that would be compiled for another instruction set
    score[0] = score[1] = Splat(3e38f);
    value[0] = value[1] = hn::Zero(LaneTag());
  }
  HWY_INLINE void Offer(V s, V v) {
    const VMask first = hn::Lt(s, score[0]);
    const VMask second = hn::Lt(s, score[1]);
    score[1] = hn::IfThenElse(first, score[0], hn::IfThenElse(second, s, score[1]));
    value[1] = hn::IfThenElse(first, value[0], hn::IfThenElse(second, v, value[1]));
    score[0] = hn::IfThenElse(first, s, score[0]);
    value[0] = hn::IfThenElse(first, v, value[0]);
  }
};

class FewValuesGrid final : public BlockGrid {
 public:
  FewValuesGrid(BlockType type, Effort effort)
      : BlockGrid(TraitsOf(type).elements, TraitsOf(type).elements, 1, TraitsOf(type).bytes),
        type_(type),
        hi_(type == BlockType::kQ2_0 ? 2.0f : 1.0f),
        trials_(effort == Effort::kFast     ? 6
                : effort == Effort::kNormal ? 12
                                            : 24),
        refits_(effort == Effort::kFast ? 1 : 3) {}

  void BeginBlock(const float* w, const float* h, ScaleSearch search) override {
    for (int64_t l = 0; l < kLanes; l += VWidth()) Fit(w + l, h, search, l);
  }
  void BeginSubBlock(int64_t, const float*, const float*) override {}

  void Round(int64_t i, const float* w, const float*, int64_t, float* decoded) override {
    const LaneTag d;
    const hn::Rebind<int32_t, LaneTag> d32;
    const hn::Rebind<uint8_t, LaneTag> d8;
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const V scale = hn::Load(d, scale_ + l);
      const V x = hn::Load(d, w + l);
      V q, code;
      if (type_ == BlockType::kQ1_0) {
        const VMask negative = hn::Lt(x, hn::Zero(d));
        q = hn::IfThenElse(negative, Splat(-1.0f), Splat(1.0f));
        code = hn::IfThenElse(negative, hn::Zero(d), Splat(1.0f));
      } else {
        q = NearestV(ClampV(DivOrZero(x, scale), Splat(-1.0f), Splat(hi_)));
        code = hn::Add(q, Splat(1.0f));
      }
      hn::Store(hn::Mul(scale, q), d, decoded + l);
      hn::Store(hn::DemoteTo(d8, hn::ConvertTo(d32, code)), d8, codes_ + i * kLanes + l);
    }
  }

  void TakeLanes(const BlockGrid& other, const LaneMask& lanes) override {
    const auto& from = static_cast<const FewValuesGrid&>(other);
    pennyweight::TakeLanes(from.scale_, 1, lanes, scale_);
    pennyweight::TakeLanes(from.codes_, block(), lanes, codes_);
  }

  void Pack(uint8_t* out) const override {
    switch (type_) {
      case BlockType::kQ1_0:
        PackBits(out);
        return;
      case BlockType::kQ2_0:
        PackPairs(out);
        return;
      case BlockType::kTQ2_0:
        PackStrides(out);
        return;
      default:
        PackTrits(out);
    }
  }

 private:
  // One byte of the packed block for all lanes.
  using LaneBytes = std::array<uint8_t, kLanes>;

  const uint8_t* Codes(int64_t i) const { return codes_ + i * kLanes; }

  void PutBytes(const LaneBytes& bytes, int64_t at, uint8_t* out) const {
    for (int64_t l = 0; l < kLanes; ++l) {
      out[l * packed_bytes() + at] = bytes[static_cast<size_t>(l)];
    }
  }
  void PutScale(int64_t at, uint8_t* out) const {
    for (int64_t l = 0; l < kLanes; ++l) StoreF16(scale_[l], out + l * packed_bytes() + at);
  }

  // Fields of `bits` bits from columns first, first + step, ... share a byte, the first lowest.
  LaneBytes Field(int64_t first, int64_t step, int count, int bits) const {
    LaneBytes bytes{};
    for (int k = 0; k < count; ++k) {
      const uint8_t* q = Codes(first + k * step);
      for (size_t l = 0; l < kLanes; ++l) {
        bytes[l] = static_cast<uint8_t>(bytes[l] | q[l] << (k * bits));
      }
    }
    return bytes;
  }

  void PackBits(uint8_t* out) const {
    PutScale(0, out);
    for (int64_t j = 0; j < 16; ++j) PutBytes(Field(8 * j, 1, 8, 1), 2 + j, out);
  }
  void PackPairs(uint8_t* out) const {
    PutScale(0, out);
    for (int64_t j = 0; j < 16; ++j) PutBytes(Field(4 * j, 1, 4, 2), 2 + j, out);
  }
  void PackStrides(uint8_t* out) const {
    for (int64_t j = 0; j < 64; ++j) PutBytes(Field(j / 32 * 128 + j % 32, 32, 4, 2), j, out);
    PutScale(64, out);
  }
  // The inverse of DecodeTQ1_0: trits as digits of a fraction, the first the most significant.
  void PackTrits(uint8_t* out) const {
    struct Part {
      int64_t first, bytes, trits;
    };
    constexpr Part kParts[] = {{0, 32, 5}, {32, 16, 5}, {48, 4, 4}};
    int64_t column = 0;
    for (const Part& part : kParts) {
      for (int64_t m = 0; m < part.bytes; ++m) {
        LaneBytes bytes{};
        for (size_t l = 0; l < kLanes; ++l) {
          int value = 0;
          for (int64_t n = 0; n < 5; ++n) {
            value *= 3;
            if (n < part.trits) value += Codes(column + n * part.bytes + m)[l];
          }
          bytes[l] = static_cast<uint8_t>((value * 256 + 242) / 243);
        }
        PutBytes(bytes, part.first + m, out);
      }
      column += part.bytes * part.trits;
    }
    PutScale(52, out);
  }

  void Fit(const float* w, const float* h, ScaleSearch search, int64_t lane) {
    const V amax = MaxMagnitude(w, block());
    const V up = Normalizer(amax);
    const V down = hn::Div(Splat(1.0f), up);
    HWY_ALIGN float x[256 * kLanes];
    ScaleCols(w, block(), up, x);
    const V top = hn::Mul(amax, up);
    V scale = top;  // the reference's choice for all but Q1_0
    if (type_ == BlockType::kQ1_0) {
      scale = MeanMagnitude(x, search == ScaleSearch::kSearch ? h : nullptr);
    } else if (search == ScaleSearch::kSearch) {
      scale = Search(x, h, top, up, down);
    }
    StoreCol(RoundToF16(hn::Mul(scale, down)), scale_ + lane, 0);
  }

  V MeanMagnitude(const float* x, const float* h) const {
    V sum = hn::Zero(LaneTag());
    float weights = 0;
    for (int64_t i = 0; i < block(); ++i) {
      const float weight = h == nullptr ? 1.0f : h[i];
      sum = hn::Add(sum, hn::Mul(Splat(weight), hn::Abs(LoadCol(x, i))));
      weights += weight;
    }
    return hn::Div(sum, Splat(weights));
  }

  V Search(const float* x, const float* h, V top, V up, V down) const {
    const V lo = Splat(-1.0f), hi = Splat(hi_);
    const bool both_signs = type_ == BlockType::kQ2_0;
    BestTwo best;
    for (int t = 0; t < trials_; ++t) {
      // From the scale that clips nothing, down to an eighth of it.
      const float ratio =
          hi_ * (1.0f - 0.875f * static_cast<float>(t) / static_cast<float>(trials_));
      const V step = hn::Mul(top, Splat(ratio / (hi_ * hi_)));
      for (const float sign : {1.0f, -1.0f}) {
        if (sign < 0 && !both_signs) continue;
        const V inverse = DivOrZero(Splat(sign), step);
        const SymmetricSumsV sums = SumSymmetricV(x, h, block(), inverse, lo, hi);
        const V fit = DivOrZero(sums.xq, sums.qq);
        best.Offer(hn::Neg(hn::Mul(fit, sums.xq)), fit);
      }
    }
    V scale = top;
    V error = Splat(3e38f);
    for (const V start : best.value) {
      V trial = start;
      for (int r = 0; r < refits_; ++r) {
        const SymmetricSumsV sums =
            SumSymmetricV(x, h, block(), DivOrZero(Splat(1.0f), trial), lo, hi);
        trial = DivOrZero(sums.xq, sums.qq);
      }
      trial = hn::Mul(RoundToF16(hn::Mul(trial, down)), up);
      const V miss = SymmetricErrorV(x, h, block(), trial, DivOrZero(Splat(1.0f), trial), lo, hi);
      const VMask better = hn::Lt(miss, error);
      scale = hn::IfThenElse(better, trial, scale);
      error = hn::IfThenElse(better, miss, error);
    }
    return scale;
  }

  BlockType type_;
  float hi_;
  int trials_, refits_;
  alignas(kLaneAlign) float scale_[kLanes] = {};
  alignas(kLaneAlign) uint8_t codes_[256 * kLanes] = {};
};

std::unique_ptr<BlockGrid> MakeTernaryGridImpl(BlockType type, Effort effort) {
  switch (type) {
    case BlockType::kTQ1_0:
    case BlockType::kTQ2_0:
    case BlockType::kQ1_0:
    case BlockType::kQ2_0:
      return std::make_unique<FewValuesGrid>(type, effort);
    default:
      return nullptr;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
