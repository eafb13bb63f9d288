// Integer codes in groups: value = (code - zero) * scale, the scale in f16, bf16 or f32 of either
// sign. How scales and zero points are searched: lane_search-inl.h. A group may be a whole row, so
// nothing of its length lies on the stack.
#include <cstring>
#include <memory>

#include "quant/grid.h"
#include "quant/lane_pack-inl.h"
#include "quant/lane_search-inl.h"

#if defined(PENNYWEIGHT_QUANT_GRID_INTEGER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_GRID_INTEGER_INL_H_
#undef PENNYWEIGHT_QUANT_GRID_INTEGER_INL_H_
#else
#define PENNYWEIGHT_QUANT_GRID_INTEGER_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {

class IntegerGrid final : public BlockGrid {
 public:
  IntegerGrid(const IntegerSpec& spec, int64_t width, Effort effort)
      : BlockGrid(width, width, 1,
                  width + DTypeBits(spec.scale_dtype) / 8 + (spec.symmetric ? 0 : 1)),
        spec_(spec),
        effort_(effort),
        lo_(static_cast<float>(-(1 << (spec.bits - 1)))),
        hi_(static_cast<float>((1 << (spec.bits - 1)) - 1)),
        codes_(width * kLanes) {}

  void BeginBlock(const float* w, const float* h, ScaleSearch search) override {
    for (int64_t l = 0; l < kLanes; l += VWidth()) Fit(Columns(w + l, h, block()), search, l);
  }

  void BeginSubBlock(int64_t, const float*, const float*) override {}

  void Round(int64_t i, const float* w, const float*, int64_t, float* decoded) override {
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const LaneScale lane = Lane(l);
      const V q = StepsOf(hn::Load(LaneTag(), w + l), lane);
      hn::Store(hn::Mul(q, LoadCol(scale_ + l, 0)), LaneTag(), decoded + l);
      StoreSignedCode(hn::Add(q, lane.zero), codes_.data() + l, i);
    }
  }

  void Encode(const float* w, const float* h, ScaleSearch search, uint8_t* out) override {
    BeginBlock(w, h, search);
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const LaneScale lane = Lane(l);
      for (int64_t i = 0; i < block(); ++i) {
        const V q = StepsOf(LoadCol(w + l, i), lane);
        StoreSignedCode(hn::Add(q, lane.zero), codes_.data() + l, i);
      }
    }
    Pack(out);
  }

  void TakeLanes(const BlockGrid& other, const LaneMask& lanes) override {
    const auto& from = static_cast<const IntegerGrid&>(other);
    pennyweight::TakeLanes(from.scale_, 1, lanes, scale_);
    pennyweight::TakeLanes(from.zero_, 1, lanes, zero_);
    pennyweight::TakeLanes(from.up_, 1, lanes, up_);
    pennyweight::TakeLanes(from.inverse_, 1, lanes, inverse_);
    pennyweight::TakeLanes(from.codes_.data(), block(), lanes, codes_.data());
  }

  void Pack(uint8_t* out) const override {
    TransposeBytes(codes_.data(), block(), out, packed_bytes());
    out += block();
    for (int64_t l = 0; l < kLanes; ++l, out += packed_bytes()) {
      EncodeFromFloat(spec_.scale_dtype, scale_ + l, out, 1);
      if (spec_.symmetric) continue;
      const auto zero = static_cast<int8_t>(zero_[l]);
      std::memcpy(out + DTypeBits(spec_.scale_dtype) / 8, &zero, 1);
    }
  }

 private:
  struct LaneScale {
    V up, inverse, zero, lo, hi;
  };
  LaneScale Lane(int64_t l) const {
    const V zero = LoadCol(zero_ + l, 0);
    return {LoadCol(up_ + l, 0), LoadCol(inverse_ + l, 0), zero, hn::Sub(Splat(lo_), zero),
            hn::Sub(Splat(hi_), zero)};
  }
  // code - zero
  static V StepsOf(V w, const LaneScale& lane) {
    const V x = hn::Mul(w, lane.up);
    return NearestV(ClampV(hn::Mul(x, lane.inverse), lane.lo, lane.hi));
  }

  // The scale and zero point of each lane of one vector.
  void Fit(const Columns& b, ScaleSearch search, int64_t l) {
    const DType dtype = spec_.scale_dtype;
    V scale, zero = hn::Zero(LaneTag());
    if (!spec_.symmetric) {
      ZeroPoint best;
      if (search == ScaleSearch::kMinMax) {
        const Span span(b, lo_, hi_);
        best.scale = b.Stored(dtype, span.Scale(0, 0));
        best.zero = span.Zero(best.scale, 0);
      } else {
        best = SearchZeroPoint(b, lo_, hi_, dtype, effort_);
      }
      scale = best.scale;
      zero = best.zero;
    } else if (search == ScaleSearch::kMinMax) {
      // Half of the code range, as compressed-tensors' own observer: the largest weight of one sign
      // is met exactly, that of the other up to half a step.
      scale = b.Stored(dtype, hn::Div(b.Top(), Splat((hi_ - lo_) / 2)));
    } else if (-lo_ >= static_cast<float>(kFineCodes)) {
      scale = SearchFineSymmetric(b, lo_, hi_, dtype, effort_);
    } else {
      scale = b.Stored(dtype, SearchCoarse(b, lo_, hi_, effort_));
    }
    // Too small for the scale's dtype: all codes are zero, and any scale decodes them alike. A
    // stored zero would make readers that divide by it fail.
    const VMask dead = hn::Eq(scale, hn::Zero(LaneTag()));
    const V stored = hn::IfThenElse(dead, Splat(1.0f), hn::Mul(scale, b.down));
    StoreCol(b.up, up_ + l, 0);
    StoreCol(DivOrZero(Splat(1.0f), scale), inverse_ + l, 0);
    StoreCol(stored, scale_ + l, 0);
    StoreCol(hn::IfThenElse(dead, hn::Zero(LaneTag()), zero), zero_ + l, 0);
  }

  IntegerSpec spec_;
  Effort effort_;
  float lo_, hi_;
  alignas(kLaneAlign) float scale_[kLanes] = {}, zero_[kLanes] = {};  // as stored
  alignas(kLaneAlign) float up_[kLanes] = {}, inverse_[kLanes] = {};  // in normalised terms
  LaneArray<uint8_t> codes_;
};

std::unique_ptr<BlockGrid> MakeIntegerGridImpl(const IntegerSpec& spec, int64_t cols,
                                               Effort effort) {
  return std::make_unique<IntegerGrid>(spec, spec.group_size == 0 ? cols : spec.group_size, effort);
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
