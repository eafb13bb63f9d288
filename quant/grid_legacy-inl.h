// Q4_0 Q5_0 Q8_0: blocks of 32 with one fp16 scale. One class per instruction set; see lanes-inl.h.
#include <algorithm>
#include <memory>

#include "quant/codec_blocks.h"
#include "quant/grid.h"
#include "quant/lane_fit-inl.h"

#if defined(PENNYWEIGHT_QUANT_GRID_LEGACY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_GRID_LEGACY_INL_H_
#undef PENNYWEIGHT_QUANT_GRID_LEGACY_INL_H_
#else
#define PENNYWEIGHT_QUANT_GRID_LEGACY_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {

class LegacySymmetricGrid final : public BlockGrid {
 public:
  LegacySymmetricGrid(BlockType type, int lo, int hi)
      : BlockGrid(kWidth, kWidth, 1, TraitsOf(type).bytes),
        type_(type),
        lo_(static_cast<float>(lo)),
        hi_(static_cast<float>(hi)) {}

  void BeginBlock(const float* w, const float* h, ScaleSearch search) override {
    for (int64_t l = 0; l < kLanes; l += VWidth()) Fit(w + l, h, search, l);
  }

  void BeginSubBlock(int64_t, const float*, const float*) override {}

  void Round(int64_t i, const float* w, const float*, int64_t, float* decoded) override {
    const hn::Rebind<int8_t, LaneTag> d8;
    const hn::Rebind<int32_t, LaneTag> d32;
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const V scale = LoadCol(scale_ + l, 0);
      const V q =
          NearestV(ClampV(DivOrZero(hn::Load(LaneTag(), w + l), scale), Splat(lo_), Splat(hi_)));
      hn::Store(hn::Mul(scale, q), LaneTag(), decoded + l);
      hn::Store(hn::DemoteTo(d8, hn::ConvertTo(d32, q)), d8, codes_ + i * kLanes + l);
    }
  }

  void Pack(uint8_t* out) const override {
    for (int64_t l = 0; l < kLanes; ++l, out += packed_bytes()) {
      StoreF16(scale_[l], out);
      const int8_t* q = codes_ + l;
      if (type_ == BlockType::kQ8_0) {
        for (int64_t j = 0; j < kWidth; ++j) out[2 + j] = static_cast<uint8_t>(q[j * kLanes]);
        continue;
      }
      const auto code = [&](int64_t j) { return q[j * kLanes] - static_cast<int>(lo_); };
      uint8_t* qs = out + 2;
      if (type_ == BlockType::kQ5_0) {
        uint32_t high = 0;
        for (int64_t j = 0; j < kWidth; ++j) high |= static_cast<uint32_t>(code(j) >> 4 & 1) << j;
        for (int64_t k = 0; k < 4; ++k) qs[k] = static_cast<uint8_t>(high >> (8 * k));
        qs += 4;
      }
      for (int64_t j = 0; j < 16; ++j) {
        qs[j] = static_cast<uint8_t>((code(j) & 15) | (code(j + 16) & 15) << 4);
      }
    }
  }

 private:
  static constexpr int64_t kWidth = 32;

  // The scale of each lane of one vector, as stored.
  void Fit(const float* w, const float* h, ScaleSearch search, int64_t lane) {
    const V amax = MaxMagnitude(w, kWidth);
    const V up = Normalizer(amax);
    const V down = hn::Div(Splat(1.0f), up);
    HWY_ALIGN float buffer[kWidth * kLanes];
    ScaleCols(w, kWidth, up, buffer);
    const auto stored = [&](V scale) { return hn::Mul(RoundToF16(hn::Mul(scale, down)), up); };

    // The reference's choice: Q4_0 and Q5_0 map the weight of largest magnitude, with its sign, to
    // the lowest code; Q8_0 maps the largest magnitude to 127.
    V low = hn::Zero(LaneTag()), high = hn::Zero(LaneTag());
    for (int64_t i = 0; i < kWidth; ++i) {
      low = hn::Min(low, LoadCol(buffer, i));
      high = hn::Max(high, LoadCol(buffer, i));
    }
    const V top = hn::Max(hn::Neg(low), high);
    V scale = hn::Div(top, Splat(127.0f));
    if (type_ != BlockType::kQ8_0) {
      scale = hn::Div(hn::IfThenElse(hn::Gt(hn::Neg(low), high), low, high), Splat(lo_));
    }
    scale = stored(scale);
    if (search == ScaleSearch::kSearch) {
      const V lo = Splat(lo_), hi = Splat(hi_);
      V best = scale;
      V best_error = SymmetricErrorV(buffer, h, kWidth, best, DivOrZero(Splat(1.0f), best), lo, hi);
      for (int step = -6; step <= 6; ++step) {
        const V inverse = DivOrZero(Splat(1.0f - 0.03f * static_cast<float>(step)), scale);
        const SymmetricSumsV sums = SumSymmetricV(buffer, h, kWidth, inverse, lo, hi);
        const V trial = stored(DivOrZero(sums.xq, sums.qq));
        const V error =
            SymmetricErrorV(buffer, h, kWidth, trial, DivOrZero(Splat(1.0f), trial), lo, hi);
        const VMask better = hn::Lt(error, best_error);
        best = hn::IfThenElse(better, trial, best);
        best_error = hn::IfThenElse(better, error, best_error);
      }
      scale = best;
    }
    StoreCol(hn::Mul(scale, down), scale_ + lane, 0);
  }

  BlockType type_;
  float lo_, hi_;
  alignas(kLaneAlign) float scale_[kLanes] = {};
  alignas(kLaneAlign) int8_t codes_[kWidth * kLanes] = {};
};

std::unique_ptr<BlockGrid> MakeLegacyGridImpl(BlockType type, Effort) {
  switch (type) {
    case BlockType::kQ4_0:
      return std::make_unique<LegacySymmetricGrid>(type, -8, 7);
    case BlockType::kQ5_0:
      return std::make_unique<LegacySymmetricGrid>(type, -16, 15);
    case BlockType::kQ8_0:  // -128 is left out: some int8 kernels negate codes
      return std::make_unique<LegacySymmetricGrid>(type, -127, 127);
    default:
      return nullptr;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
