// Q4_0 Q5_0 Q8_0: blocks of 32 with one fp16 scale; Q4_1 Q5_1: with scale and offset. How scales
// are searched: lane_search-inl.h. One class per instruction set.
#include <memory>

#include "quant/grid.h"
#include "quant/lane_pack-inl.h"
#include "quant/lane_search-inl.h"

#if defined(PENNYWEIGHT_QUANT_GRID_LEGACY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_GRID_LEGACY_INL_H_
#undef PENNYWEIGHT_QUANT_GRID_LEGACY_INL_H_
#else
#define PENNYWEIGHT_QUANT_GRID_LEGACY_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {

// value = scale * (code - bias) + offset, codes in [0, top]; symmetric types have no offset, affine
// ones no bias. Weights are normalised before they are rounded, as in the search.
class LegacyGrid final : public BlockGrid {
 public:
  LegacyGrid(BlockType type, int top, int bias, Effort effort)
      : BlockGrid(kWidth, kWidth, 1, TraitsOf(type).bytes),
        type_(type),
        effort_(effort),
        top_(static_cast<float>(top)),
        bias_(static_cast<float>(bias)) {}

  void BeginBlock(const float* w, const float* h, ScaleSearch search) override {
    for (int64_t l = 0; l < kLanes; l += VWidth()) Fit(Columns(w + l, h, kWidth), search, l);
  }

  void BeginSubBlock(int64_t, const float*, const float*) override {}

  void Round(int64_t i, const float* w, const float*, int64_t, float* decoded) override {
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const V q = CodeOf(hn::Load(LaneTag(), w + l), Lane(l));
      const V step = hn::Mul(LoadCol(scale_ + l, 0), q);
      hn::Store(Affine() ? hn::Add(step, LoadCol(offset_ + l, 0)) : step, LaneTag(), decoded + l);
      Keep(q, i, l);
    }
  }

  void Encode(const float* w, const float* h, ScaleSearch search, uint8_t* out) override {
    BeginBlock(w, h, search);
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const LaneScale lane = Lane(l);
      if (type_ == BlockType::kQ8_0) {
        for (int64_t i = 0; i < kWidth; ++i) {
          StoreSignedCode(CodeOf(LoadCol(w + l, i), lane), codes_ + l, i);
        }
      } else {
        const V bias = Splat(bias_);
        for (int64_t i = 0; i < kWidth; ++i) {
          StoreCode(hn::Add(CodeOf(LoadCol(w + l, i), lane), bias), codes_ + l, i);
        }
      }
    }
    Pack(out);
  }

  void TakeLanes(const BlockGrid& other, const LaneMask& lanes) override {
    const auto& from = static_cast<const LegacyGrid&>(other);
    pennyweight::TakeLanes(from.scale_, 1, lanes, scale_);
    pennyweight::TakeLanes(from.offset_, 1, lanes, offset_);
    pennyweight::TakeLanes(from.up_, 1, lanes, up_);
    pennyweight::TakeLanes(from.inverse_, 1, lanes, inverse_);
    pennyweight::TakeLanes(from.normal_offset_, 1, lanes, normal_offset_);
    pennyweight::TakeLanes(from.codes_, kWidth, lanes, codes_);
  }

  void Pack(uint8_t* out) const override {
    StoreF16Lanes(scale_, out, packed_bytes());
    out += 2;
    if (Affine()) {
      StoreF16Lanes(offset_, out, packed_bytes());
      out += 2;
    }
    if (type_ == BlockType::kQ8_0) return TransposeBytes(codes_, kWidth, out, packed_bytes());
    HWY_ALIGN uint8_t bytes[16 * kLanes];
    if (type_ == BlockType::kQ5_0 || type_ == BlockType::kQ5_1) {
      MergeFields<4, 1>(codes_, 8, 1, 4, bytes);
      TransposeBytes(bytes, 4, out, packed_bytes());
      out += 4;
    }
    MergeFields<0, 4>(codes_, 1, 16, 16, bytes);
    TransposeBytes(bytes, 16, out, packed_bytes());
  }

 private:
  static constexpr int64_t kWidth = 32;

  bool Affine() const { return type_ == BlockType::kQ4_1 || type_ == BlockType::kQ5_1; }

  struct LaneScale {
    V up, inverse, offset, lo, hi;
  };
  LaneScale Lane(int64_t l) const {
    return {LoadCol(up_ + l, 0), LoadCol(inverse_ + l, 0), LoadCol(normal_offset_ + l, 0),
            Splat(-bias_), Splat(top_ - bias_)};
  }
  // code - bias
  static V CodeOf(V w, const LaneScale& lane) {
    const V x = hn::Sub(hn::Mul(w, lane.up), lane.offset);
    return NearestV(ClampV(hn::Mul(x, lane.inverse), lane.lo, lane.hi));
  }
  void Keep(V q, int64_t i, int64_t l) {
    if (type_ == BlockType::kQ8_0) return StoreSignedCode(q, codes_ + l, i);
    StoreCode(hn::Add(q, Splat(bias_)), codes_ + l, i);
  }

  // The scale and offset of each lane of one vector.
  void Fit(const Columns& b, ScaleSearch search, int64_t l) {
    V offset = hn::Zero(LaneTag());
    V scale;
    if (Affine()) {
      scale = b.Stored(DType::kF16, hn::Div(hn::Sub(b.high, b.low), Splat(top_)));
      offset = b.Stored(DType::kF16, b.low);
      if (search == ScaleSearch::kSearch) {
        const AffineScale best = SearchAffine(b, top_, DType::kF16, effort_);
        scale = best.scale;
        offset = best.offset;
      }
    } else if (search == ScaleSearch::kMinMax) {
      // The reference's choice: Q4_0 and Q5_0 map the weight of largest magnitude, with its sign,
      // to the lowest code; Q8_0 maps the largest magnitude to 127.
      const bool both = type_ == BlockType::kQ8_0;
      scale = both ? hn::Div(b.Top(), Splat(bias_)) : hn::Div(b.SignedTop(), Splat(-bias_));
      scale = b.Stored(DType::kF16, scale);
    } else if (type_ == BlockType::kQ8_0) {
      scale = SearchFineSymmetric(b, -bias_, bias_, DType::kF16, effort_);
    } else {
      scale = b.Stored(DType::kF16, SearchCoarse(b, -bias_, top_ - bias_, effort_));
    }
    StoreCol(b.up, up_ + l, 0);
    StoreCol(DivOrZero(Splat(1.0f), scale), inverse_ + l, 0);
    StoreCol(offset, normal_offset_ + l, 0);
    StoreCol(hn::Mul(scale, b.down), scale_ + l, 0);
    StoreCol(hn::Mul(offset, b.down), offset_ + l, 0);
  }

  BlockType type_;
  Effort effort_;
  float top_, bias_;
  alignas(kLaneAlign) float scale_[kLanes] = {}, offset_[kLanes] = {};  // as stored
  // In normalised terms.
  alignas(kLaneAlign) float up_[kLanes] = {}, inverse_[kLanes] = {}, normal_offset_[kLanes] = {};
  alignas(kLaneAlign) uint8_t codes_[kWidth * kLanes] = {};
};

std::unique_ptr<BlockGrid> MakeLegacyGridImpl(BlockType type, Effort effort) {
  switch (type) {
    case BlockType::kQ4_0:
      return std::make_unique<LegacyGrid>(type, 15, 8, effort);
    case BlockType::kQ5_0:
      return std::make_unique<LegacyGrid>(type, 31, 16, effort);
    case BlockType::kQ4_1:
      return std::make_unique<LegacyGrid>(type, 15, 0, effort);
    case BlockType::kQ5_1:
      return std::make_unique<LegacyGrid>(type, 31, 0, effort);
    case BlockType::kQ8_0:  // -128 is left out: some int8 kernels negate codes
      return std::make_unique<LegacyGrid>(type, 254, 127, effort);
    default:
      return nullptr;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
