// MXFP4: blocks of 32 E2M1 values under a power of two. NVFP4: blocks of 64, each 16 of them under
// an E4M3 scale without sign. value = scale * {0, 0.5, 1, 1.5, 2, 3, 4, 6}.
//
// The scales are so coarse that the search simply tries them: for MXFP4 the exponent that puts the
// largest weight between 4 and 8 and its two neighbours, for NVFP4 the codes around a sixth of the
// largest weight and around the least-squares scale of the best of these. Each is judged by its
// true weighted error.
//
// An NVFP4 scale is 2^-9 at least, or zero: weights below 2^-11 (an eighth of 2^-8) become zero, as
// in every file of this type that has no scale for the tensor as a whole.
#include <algorithm>
#include <memory>

#include "quant/codec_blocks.h"
#include "quant/grid.h"
#include "quant/lanes-inl.h"

#if defined(PENNYWEIGHT_QUANT_GRID_FP4_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_GRID_FP4_INL_H_
#undef PENNYWEIGHT_QUANT_GRID_FP4_INL_H_
#else
#define PENNYWEIGHT_QUANT_GRID_FP4_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {

using LaneInt = hn::Rebind<int32_t, LaneTag>;
using VI = hn::Vec<LaneInt>;

// The E2M1 magnitude nearest to y >= 0; of two equally near, the one with the even mantissa.
HWY_INLINE V NearestE2M1(V y) {
  // Adding and taking away 1.5 * 2^23 steps rounds to multiples of the step.
  const V magic = hn::IfThenElse(
      hn::Lt(y, Splat(2.0f)), Splat(0.5f * 12582912.0f),
      hn::IfThenElse(hn::Lt(y, Splat(4.0f)), Splat(12582912.0f), Splat(2.0f * 12582912.0f)));
  return hn::Min(hn::Sub(hn::Add(y, magic), magic), Splat(6.0f));
}

// The code of an E2M1 magnitude: 0 to 7.
HWY_INLINE VI E2M1Code(V magnitude) {
  const LaneInt di;
  const V doubled = hn::Add(magnitude, magnitude);
  // From 1 on the code counts half exponents: bits 22 and above of the float.
  const VI large = hn::Sub(hn::ShiftRight<22>(hn::BitCast(di, magnitude)), hn::Set(di, 252));
  const auto is_large = hn::Ge(magnitude, Splat(1.0f));
  return hn::IfThenElse(hn::RebindMask(di, is_large), large, hn::ConvertTo(di, doubled));
}

// The inverse of E2M1Code.
HWY_INLINE V E2M1Value(VI code) {
  const LaneTag d;
  const LaneInt di;
  const V small = hn::Mul(hn::ConvertTo(d, code), Splat(0.5f));
  const V large = hn::BitCast(d, hn::ShiftLeft<22>(hn::Add(code, hn::Set(di, 252))));
  return hn::IfThenElse(hn::Ge(small, Splat(1.0f)), large, small);
}

// Sum over n columns of h (|w| - scale nearest)^2.
HWY_INLINE V FP4Error(const float* w, const float* h, int64_t n, V scale) {
  const V inverse = DivOrZero(Splat(1.0f), scale);
  V error = hn::Zero(LaneTag());
  for (int64_t i = 0; i < n; ++i) {
    const V x = hn::Abs(LoadCol(w, i));
    const V e = hn::Sub(x, hn::Mul(scale, NearestE2M1(hn::Mul(x, inverse))));
    error = hn::Add(error, hn::Mul(hn::Mul(Splat(h[i]), e), e));
  }
  return error;
}

// Codes and values of one column; kept by both types.
class FP4Codes {
 public:
  // Chooses the codes of w[kLanes] under scale[kLanes].
  void Choose(int64_t i, const float* w, const float* scale, float* decoded) {
    const LaneTag d;
    const LaneInt di;
    const hn::Rebind<uint8_t, LaneTag> d8;
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const V x = hn::Load(d, w + l);
      const V s = hn::Load(d, scale + l);
      const V y = NearestE2M1(DivOrZero(hn::Abs(x), s));
      const VI negative = hn::And(hn::ShiftRight<31>(hn::BitCast(di, x)), hn::Set(di, 8));
      const VI code = E2M1Code(y);
      // Zero has one code, so that equal values are equal bytes.
      const VI sign = hn::IfThenElse(hn::Eq(code, hn::Zero(di)), hn::Zero(di), negative);
      hn::Store(hn::CopySign(hn::Mul(s, y), x), d, decoded + l);
      hn::Store(hn::DemoteTo(d8, hn::Or(code, sign)), d8, codes_ + i * kLanes + l);
    }
  }

  void TakeLanes(const FP4Codes& from, int64_t n, const LaneMask& lanes) {
    pennyweight::TakeLanes(from.codes_, n, lanes, codes_);
  }

  // Codes j and j + half of a run of 2 * half columns share byte j.
  void Pack(int64_t lane, int64_t first, int64_t half, uint8_t* out) const {
    const uint8_t* q = codes_ + first * kLanes + lane;
    for (int64_t j = 0; j < half; ++j) {
      out[j] = static_cast<uint8_t>(q[j * kLanes] | q[(j + half) * kLanes] << 4);
    }
  }

 private:
  alignas(kLaneAlign) uint8_t codes_[64 * kLanes] = {};
};

class MXFP4Grid final : public BlockGrid {
 public:
  MXFP4Grid() : BlockGrid(kWidth, kWidth, 1, TraitsOf(BlockType::kMXFP4).bytes) {}

  void BeginBlock(const float* w, const float* h, ScaleSearch search) override {
    for (int64_t l = 0; l < kLanes; l += VWidth()) Fit(w + l, h, search, l);
  }
  void BeginSubBlock(int64_t, const float*, const float*) override {}

  void Round(int64_t i, const float* w, const float*, int64_t, float* decoded) override {
    // In normalised terms, since the scale may be denormal.
    alignas(kLaneAlign) float x[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) x[l] = w[l] * up_[l];
    codes_.Choose(i, x, scale_, decoded);
    for (int64_t l = 0; l < kLanes; ++l) decoded[l] *= down_[l];
  }

  void TakeLanes(const BlockGrid& other, const LaneMask& lanes) override {
    const auto& from = static_cast<const MXFP4Grid&>(other);
    codes_.TakeLanes(from.codes_, kWidth, lanes);
    pennyweight::TakeLanes(from.exponent_, 1, lanes, exponent_);
    pennyweight::TakeLanes(from.scale_, 1, lanes, scale_);
    pennyweight::TakeLanes(from.up_, 1, lanes, up_);
    pennyweight::TakeLanes(from.down_, 1, lanes, down_);
  }

  void Pack(uint8_t* out) const override {
    for (int64_t l = 0; l < kLanes; ++l, out += packed_bytes()) {
      out[0] = static_cast<uint8_t>(exponent_[l]);
      codes_.Pack(l, 0, kWidth / 2, out + 1);
    }
  }

 private:
  static constexpr int64_t kWidth = 32;

  void Fit(const float* w, const float* h, ScaleSearch search, int64_t lane) {
    const LaneTag d;
    const LaneInt di;
    const V amax = MaxMagnitude(w, kWidth);
    const V up = Normalizer(amax);
    const V down = hn::Div(Splat(1.0f), up);
    HWY_ALIGN float x[kWidth * kLanes];
    ScaleCols(w, kWidth, up, x);
    // Normalised magnitudes have exponent 0 in all but extreme blocks, and the block's scale is
    // 2^(e - 127) with e in [0, 254].
    const VI unit = hn::Sub(hn::ShiftRight<23>(hn::BitCast(di, down)), hn::Set(di, 127));
    const V top = hn::Mul(amax, up);
    const VI raw = hn::Sub(hn::ShiftRight<23>(hn::BitCast(di, top)), hn::Set(di, 127));
    const VI first = hn::Add(hn::Add(raw, unit), hn::Set(di, 127 - 2));
    const auto clamped = [&](VI e) { return hn::Min(hn::Max(e, hn::Zero(di)), hn::Set(di, 254)); };
    const auto scale_of = [&](VI e) {  // 2^(e - 127 - unit), normalised
      const VI power = hn::Min(hn::Max(hn::Sub(e, unit), hn::Set(di, 1)), hn::Set(di, 254));
      return hn::BitCast(d, hn::ShiftLeft<23>(power));
    };
    VI best = clamped(first);
    if (search == ScaleSearch::kSearch) {
      V error = FP4Error(x, h, kWidth, scale_of(best));
      for (const int step : {1, -1}) {
        const VI trial = clamped(hn::Add(first, hn::Set(di, step)));
        const V trial_error = FP4Error(x, h, kWidth, scale_of(trial));
        const VMask better = hn::Lt(trial_error, error);
        best = hn::IfThenElse(hn::RebindMask(di, better), trial, best);
        error = hn::Min(trial_error, error);
      }
    }
    const auto dead = hn::RebindMask(di, hn::Eq(amax, hn::Zero(d)));
    best = hn::IfThenElse(dead, hn::Set(di, 1), best);  // the least that is no denormal
    hn::Store(best, di, exponent_ + lane);
    StoreCol(scale_of(best), scale_ + lane, 0);
    StoreCol(up, up_ + lane, 0);
    StoreCol(down, down_ + lane, 0);
  }

  FP4Codes codes_;
  alignas(kLaneAlign) int32_t exponent_[kLanes] = {};
  alignas(kLaneAlign) float scale_[kLanes] = {};  // normalised
  alignas(kLaneAlign) float up_[kLanes] = {}, down_[kLanes] = {};
};

class NVFP4Grid final : public BlockGrid {
 public:
  explicit NVFP4Grid(Effort effort)
      : BlockGrid(kWidth, kSub, 1, TraitsOf(BlockType::kNVFP4).bytes),
        reach_(effort == Effort::kFast     ? 1
               : effort == Effort::kNormal ? 3
                                           : 6) {}

  void BeginBlock(const float* w, const float* h, ScaleSearch search) override {
    for (int64_t s = 0; s < kWidth / kSub; ++s) {
      FitSub(s, w + s * kSub * kLanes, h + s * kSub, search);
    }
  }
  void BeginSubBlock(int64_t s, const float* w, const float* h) override {
    FitSub(s, w, h, ScaleSearch::kSearch);
  }

  void Round(int64_t i, const float* w, const float*, int64_t, float* decoded) override {
    codes_.Choose(i, w, scale_ + i / kSub * kLanes, decoded);
  }

  void TakeLanes(const BlockGrid& other, const LaneMask& lanes) override {
    const auto& from = static_cast<const NVFP4Grid&>(other);
    codes_.TakeLanes(from.codes_, kWidth, lanes);
    pennyweight::TakeLanes(from.scale_code_, kWidth / kSub, lanes, scale_code_);
    pennyweight::TakeLanes(from.scale_, kWidth / kSub, lanes, scale_);
  }

  void Pack(uint8_t* out) const override {
    for (int64_t l = 0; l < kLanes; ++l, out += packed_bytes()) {
      for (int64_t s = 0; s < kWidth / kSub; ++s) {
        out[s] = static_cast<uint8_t>(scale_code_[s * kLanes + l]);
        codes_.Pack(l, s * kSub, kSub / 2, out + 4 + s * kSub / 2);
      }
    }
  }

 private:
  static constexpr int64_t kWidth = 64;
  static constexpr int64_t kSub = 16;
  static constexpr int kTopCode = 0x7E;  // 448; 0x7F is NaN

  static V ScaleOf(VI code) {
    const LaneTag d;
    const LaneInt di;
    const V small = hn::Mul(hn::ConvertTo(d, code), Splat(0x1p-9f));
    const V normal = hn::BitCast(d, hn::Add(hn::ShiftLeft<20>(code), hn::Set(di, 120 << 23)));
    return hn::IfThenElse(hn::RebindMask(d, hn::Lt(code, hn::Set(di, 8))), small, normal);
  }
  // The code of the nearest scale, at least 1.
  static VI CodeOf(V scale) {
    const LaneInt di;
    const V inside = ClampV(scale, Splat(0x1p-9f), Splat(448.0f));
    const VI small = hn::ConvertTo(di, NearestV(hn::Mul(inside, Splat(512.0f))));
    const VI bits = hn::BitCast(di, inside);
    const VI odd = hn::And(hn::ShiftRight<20>(bits), hn::Set(di, 1));
    const VI up = hn::Add(bits, hn::Add(odd, hn::Set(di, (1 << 19) - 1)));
    const VI normal = hn::Sub(hn::ShiftRight<20>(up), hn::Set(di, 120 << 3));
    return hn::IfThenElse(hn::RebindMask(di, hn::Lt(inside, Splat(0x1p-6f))), small, normal);
  }

  void FitSub(int64_t s, const float* w, const float* h, ScaleSearch search) {
    for (int64_t l = 0; l < kLanes; l += VWidth()) FitLanes(w + l, h, search, s * kLanes + l);
  }

  void FitLanes(const float* w, const float* h, ScaleSearch search, int64_t at) {
    const LaneTag d;
    const LaneInt di;
    // Weights above the largest value of the type are cut off here: their squares stay finite.
    const V limit = Splat(0x1p20f);
    HWY_ALIGN float x[kSub * kLanes];
    V amax = hn::Zero(d);
    for (int64_t i = 0; i < kSub; ++i) {
      const V v = hn::Min(hn::Abs(LoadCol(w, i)), limit);
      amax = hn::Max(amax, v);
      StoreCol(v, x, i);
    }
    const VI first = CodeOf(hn::Mul(amax, Splat(1.0f / 6.0f)));
    VI best = first;
    if (search == ScaleSearch::kSearch) {
      V error = FP4Error(x, h, kSub, ScaleOf(first));
      const auto offer = [&](VI code) {
        const VI inside = hn::Min(hn::Max(code, hn::Set(di, 1)), hn::Set(di, kTopCode));
        const V trial = FP4Error(x, h, kSub, ScaleOf(inside));
        const VMask better = hn::Lt(trial, error);
        best = hn::IfThenElse(hn::RebindMask(di, better), inside, best);
        error = hn::Min(trial, error);
      };
      for (int step = 1; step <= reach_; ++step) {
        offer(hn::Add(first, hn::Set(di, step)));
        offer(hn::Sub(first, hn::Set(di, step)));
      }
      offer(CodeOf(LeastSquares(x, h, ScaleOf(best))));
    }
    best = hn::IfThenElse(hn::RebindMask(di, hn::Eq(amax, hn::Zero(d))), hn::Zero(di), best);
    hn::Store(best, di, scale_code_ + at);
    hn::Store(ScaleOf(best), d, scale_ + at);
  }

  static V LeastSquares(const float* x, const float* h, V scale) {
    const V inverse = DivOrZero(Splat(1.0f), scale);
    V xq = hn::Zero(LaneTag()), qq = hn::Zero(LaneTag());
    for (int64_t i = 0; i < kSub; ++i) {
      const V xi = LoadCol(x, i);
      const V q = NearestE2M1(hn::Mul(xi, inverse));
      const V hq = hn::Mul(Splat(h[i]), q);
      xq = hn::Add(xq, hn::Mul(hq, xi));
      qq = hn::Add(qq, hn::Mul(hq, q));
    }
    return DivOrZero(xq, qq);
  }

  int reach_;
  FP4Codes codes_;
  alignas(kLaneAlign) int32_t scale_code_[kWidth / kSub * kLanes] = {};
  alignas(kLaneAlign) float scale_[kWidth / kSub * kLanes] = {};
};

std::unique_ptr<BlockGrid> MakeFP4GridImpl(BlockType type, Effort effort) {
  if (type == BlockType::kMXFP4) return std::make_unique<MXFP4Grid>();
  if (type == BlockType::kNVFP4) return std::make_unique<NVFP4Grid>(effort);
  return nullptr;
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
