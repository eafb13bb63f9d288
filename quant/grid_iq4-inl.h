// IQ4_NL IQ4_XS: 4-bit codes of 16 unevenly spaced values, in blocks of 32 with an fp16 scale, or
// in super-blocks of 256 with an fp16 d and a signed integer for each 32. The values are finer
// about zero and not symmetric; so scales are tried with either sign, and beyond what the largest
// weight asks for. IQ4_XS: lane_two_level-inl.h.
#include <limits>
#include <memory>

#include "quant/codec_blocks.h"
#include "quant/grid.h"
#include "quant/lane_pack-inl.h"
#include "quant/lane_two_level-inl.h"

#if defined(PENNYWEIGHT_QUANT_GRID_IQ4_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_GRID_IQ4_INL_H_
#undef PENNYWEIGHT_QUANT_GRID_IQ4_INL_H_
#else
#define PENNYWEIGHT_QUANT_GRID_IQ4_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {

// The unit of the arguments of Iq4Codes.
inline constexpr float kIq4Unit = 23;

// Halfway from value k to the next, as an argument.
constexpr float Iq4Middle(int k) {
  return 0.5f * static_cast<float>(kIq4Values[k] + kIq4Values[k + 1]) / kIq4Unit;
}

// The nearest of kIq4Values; halfway, the lower.
struct Iq4Codes {
  static constexpr float kLowest = -127;
  static constexpr float kMostInside = 136;

  static HWY_INLINE V Argument(V inverse) { return hn::Mul(inverse, Splat(1.0f / kIq4Unit)); }

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  using IntV = hn::Vec<hn::RebindToSigned<LaneTag>>;

  // |t| + 2 in [2, 8) as a float has the exponent of one or the other octave: with two bits of
  // mantissa the eight bins of |t| with edges 0, 1/2, 1, 3/2, 2, 3, 4, 5, each of which has but one
  // middle, on either side of zero. Bins are numbered 0 to 7 above zero and from 15 down below, and
  // bin i stands for the value 8 + i (mod 16) and that above it.
  static HWY_INLINE IntV Index(V t) { return IndexOf(t, hn::Min(hn::Abs(t), Splat(5.5f))); }
  static HWY_INLINE IntV IndexOf(V t, V magnitude) {
    const hn::RebindToSigned<LaneTag> di;
    const V octaves = hn::Add(magnitude, Splat(2.0f));
    const auto bin = hn::Xor(hn::ShiftRight<21>(hn::BitCast(di, octaves)),
                             hn::ShiftRight<31>(hn::BitCast(di, t)));
    const VMask above = hn::Gt(t, Lookup(kMiddles, bin));
    return hn::IfThenElse(hn::RebindMask(di, above), hn::Add(bin, hn::Set(di, 1)), bin);
  }
  static HWY_INLINE V Value(V t) { return Lookup(kValues, Index(t)); }
  static HWY_INLINE V ValueInside(V t) { return Lookup(kValues, IndexOf(t, hn::Abs(t))); }
  static HWY_INLINE V Code(V t) {
    const hn::RebindToSigned<LaneTag> di;
    const auto code = hn::And(hn::Xor(Index(t), hn::Set(di, 8)), hn::Set(di, 15));
    return hn::ConvertTo(LaneTag(), code);
  }

 private:
  // table[index mod 16].
  static HWY_INLINE V Lookup(const float* table, IntV index) {
    const LaneTag d;
    const hn::RebindToSigned<LaneTag> di;
#if HWY_TARGET == HWY_AVX2
    const auto place = hn::IndicesFromVec(d, hn::And(index, hn::Set(di, 7)));
    const V first = hn::TableLookupLanes(hn::Load(d, table), place);
    const V second = hn::TableLookupLanes(hn::Load(d, table + 8), place);
    return hn::IfNegativeThenElse(hn::BitCast(d, hn::ShiftLeft<28>(index)), second, first);
#else
    const auto place = hn::IndicesFromVec(d, hn::And(index, hn::Set(di, 15)));
    return hn::TableLookupLanes(hn::Load(d, table), place);
#endif
  }

  alignas(kLaneAlign) static constexpr float kValues[16] = {
      1, 13, 25, 38, 53, 69, 89, 113, -127, -104, -83, -65, -49, -35, -22, -10};
  alignas(kLaneAlign) static constexpr float kMiddles[16] = {
      Iq4Middle(8),  Iq4Middle(9),  Iq4Middle(10), Iq4Middle(11),
      Iq4Middle(12), Iq4Middle(13), Iq4Middle(14), std::numeric_limits<float>::infinity(),
      Iq4Middle(0),  Iq4Middle(1),  Iq4Middle(2),  Iq4Middle(3),
      Iq4Middle(4),  Iq4Middle(5),  Iq4Middle(6),  Iq4Middle(7)};
#else
  static HWY_INLINE V Value(V t) {
    V value = Splat(kLowest);
    for (int k = 0; k < 15; ++k) {
      const V step = Splat(static_cast<float>(kIq4Values[k + 1] - kIq4Values[k]));
      value = hn::Add(value, hn::IfThenElseZero(hn::Gt(t, Splat(Iq4Middle(k))), step));
    }
    return value;
  }
  static HWY_INLINE V ValueInside(V t) { return Value(t); }
  static HWY_INLINE V Code(V t) {
    V code = hn::Zero(LaneTag());
    for (int k = 0; k < 15; ++k) {
      code = hn::Add(code, hn::IfThenElseZero(hn::Gt(t, Splat(Iq4Middle(k))), Splat(1.0f)));
    }
    return code;
  }
#endif
};

// Chooses and keeps the code of column i of a block; returns its value.
HWY_INLINE V CodeIq4(const float* w, const float* argument, uint8_t* codes, int64_t i) {
  const V t = hn::Mul(hn::LoadU(LaneTag(), w), LoadCol(argument, 0));
  StoreCode(Iq4Codes::Code(t), codes, i);
  return Iq4Codes::Value(t);
}

class Iq4NlGrid final : public BlockGrid {
 public:
  // After `trials` some least-squares scales.
  Iq4NlGrid(const Trials& trials, int refits)
      : BlockGrid(kWidth, kWidth, 1, TraitsOf(BlockType::kIQ4_NL).bytes),
        trials_(trials),
        refits_(refits) {}

  void BeginBlock(const float* w, const float* h, ScaleSearch search) override {
    const bool plain = AllOnes(h, kWidth);
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const V d = search == ScaleSearch::kMinMax ? MinMax(w + l)
                  : plain                        ? Search<true>(w + l, h)
                                                 : Search<false>(w + l, h);
      StoreCol(d, d_ + l, 0);
      StoreCol(Iq4Codes::Argument(DivOrZero(Splat(1.0f), d)), argument_ + l, 0);
    }
  }
  void BeginSubBlock(int64_t, const float*, const float*) override {}

  void Round(int64_t i, const float* w, const float*, int64_t, float* decoded) override {
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const V value = CodeIq4(w + l, argument_ + l, codes_ + l, i);
      hn::StoreU(hn::Mul(LoadCol(d_ + l, 0), value), LaneTag(), decoded + l);
    }
  }

  void Encode(const float* w, const float* h, ScaleSearch search, uint8_t* out) override {
    BeginBlock(w, h, search);
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      for (int64_t i = 0; i < kWidth; ++i)
        CodeIq4(w + i * kLanes + l, argument_ + l, codes_ + l, i);
    }
    Pack(out);
  }

  void TakeLanes(const BlockGrid& other, const LaneMask& lanes) override {
    const auto& from = static_cast<const Iq4NlGrid&>(other);
    pennyweight::TakeLanes(from.d_, 1, lanes, d_);
    pennyweight::TakeLanes(from.argument_, 1, lanes, argument_);
    pennyweight::TakeLanes(from.codes_, kWidth, lanes, codes_);
  }

  void Pack(uint8_t* out) const override {
    HWY_ALIGN uint8_t columns[16 * kLanes];
    MergeFields<0, 4>(codes_, 1, 16, 16, columns);
    TransposeBytes(columns, 16, out + 2, packed_bytes());
    StoreF16Lanes(d_, out, packed_bytes());
  }

 private:
  static constexpr int64_t kWidth = 32;

  // The largest weight gets the lowest code.
  static V MinMax(const float* w) {
    HWY_ALIGN float peak[kLanes];
    FindPeaks(w, kWidth, 1, peak);
    return RoundToF16(hn::Div(LoadCol(peak, 0), Splat(Iq4Codes::kLowest)));
  }

  template <bool kPlain>
  V Search(const float* w, const float* h) const {
    HWY_ALIGN float x[kWidth * kLanes];
    HWY_ALIGN float peak[kLanes];
    const V up = Normalizer(FindPeaks(w, kWidth, 1, peak));
    const V down = hn::Div(Splat(1.0f), up);
    ScaleCols(w, kWidth, up, x);
    BestTrial best =
        TryScales<Iq4Codes, kPlain>(x, h, kWidth, hn::Mul(LoadCol(peak, 0), up), trials_);
    for (int r = 0; r < refits_; ++r) {
      const V inverse = DivOrZero(Splat(1.0f), best.Scale());
      V xq, qq;
      SumTrials<Iq4Codes, kPlain, false, 1>(x, h, kWidth, &inverse, &xq, &qq);
      KeepBetter<1>(&xq, &qq, &best);
    }
    return RoundToF16(hn::Mul(best.Scale(), down));
  }

  Trials trials_;
  int refits_;
  alignas(kLaneAlign) float d_[kLanes] = {};
  alignas(kLaneAlign) float argument_[kLanes] = {};
  alignas(kLaneAlign) uint8_t codes_[kWidth * kLanes] = {};
};

class Iq4XsGrid final : public BlockGrid {
 public:
  explicit Iq4XsGrid(const TwoLevelPlan& plan)
      : BlockGrid(kSuper, kSub, 1, TraitsOf(BlockType::kIQ4_XS).bytes),
        scales_(plan, plan),
        codes_(kSuper * kLanes) {}

  void BeginBlock(const float* w, const float* h, ScaleSearch search) override {
    scales_.Fit(w, h, search);
  }
  void BeginSubBlock(int64_t s, const float* w, const float* h) override {
    scales_.FitSub(s, w, h);
  }

  void Round(int64_t i, const float* w, const float*, int64_t, float* decoded) override {
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const V value = CodeIq4(w + l, scales_.argument(i / kSub) + l, codes_.data() + l, i);
      hn::StoreU(hn::Mul(LoadCol(scales_.scale(i / kSub) + l, 0), value), LaneTag(), decoded + l);
    }
  }

  void Encode(const float* w, const float* h, ScaleSearch search, uint8_t* out) override {
    scales_.Fit(w, h, search);
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      for (int64_t i = 0; i < kSuper; ++i) {
        CodeIq4(w + i * kLanes + l, scales_.argument(i / kSub) + l, codes_.data() + l, i);
      }
    }
    Pack(out);
  }

  void TakeLanes(const BlockGrid& other, const LaneMask& lanes) override {
    const auto& from = static_cast<const Iq4XsGrid&>(other);
    scales_.TakeLanes(from.scales_, lanes);
    pennyweight::TakeLanes(from.codes_.data(), kSuper, lanes, codes_.data());
  }

  // d, scales_h[2], scales_l[4], qs[128]: layout in codec_kquants.cc.
  void Pack(uint8_t* out) const override {
    HWY_ALIGN uint8_t columns[134 * kLanes];
    HWY_ALIGN uint8_t integers[8 * kLanes];
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      for (int64_t j = 0; j < 8; ++j) {
        StoreCode(hn::Add(LoadCol(scales_.integer(j) + l, 0), Splat(32.0f)), integers + l, j);
      }
    }
    MergeFields<4, 2>(integers, 4, 1, 2, columns);
    MergeFields<0, 4>(integers, 2, 1, 4, columns + 2 * kLanes);
    for (int64_t j = 0; j < 8; ++j) {
      MergeFields<0, 4>(codes_.data() + j * kSub * kLanes, 1, 16, 16,
                        columns + (6 + j * 16) * kLanes);
    }
    TransposeBytes(columns, 134, out + 2, packed_bytes());
    StoreF16Lanes(scales_.d(), out, packed_bytes());
  }

 private:
  using Scales = TwoLevelScales<Iq4Codes, 32, 32>;
  static constexpr int64_t kSuper = Scales::kSuper;
  static constexpr int64_t kSub = 32;

  Scales scales_;
  LaneArray<uint8_t> codes_;
};

std::unique_ptr<BlockGrid> MakeIq4GridImpl(BlockType type, Effort effort) {
  static constexpr float kFew[] = {100, 110, 120, 130, -95, -105, -115, -125, -135};
  static constexpr float kFewBeyond[] = {140, 150, -145};
  static constexpr float kSome[] = {90,  95,   100,  105,  110,  115,  120,  125,  130,  -85, -90,
                                    -95, -100, -105, -110, -115, -120, -125, -130, -135, 135};
  static constexpr float kSomeBeyond[] = {140, 145, 150, 155, 160, -140, -145, -150, -155};
  static constexpr float kMany[] = {
      75,      80,   85,      90,   92.5f,   95,   97.5f,   100,  102.5f,  105,  107.5f,  110,
      112.5f,  115,  117.5f,  120,  122.5f,  125,  127.5f,  130,  132.5f,  135,  -70,     -75,
      -80,     -85,  -87.5f,  -90,  -92.5f,  -95,  -97.5f,  -100, -102.5f, -105, -107.5f, -110,
      -112.5f, -115, -117.5f, -120, -122.5f, -125, -127.5f, -130, -132.5f, -135};
  static constexpr float kManyBeyond[] = {137.5f, 140,  142.5f, 145,     150,  155,
                                          160,    170,  185,    -137.5f, -140, -142.5f,
                                          -145,   -150, -155,   -160,    -170, -185};
  static constexpr float kRatios[] = {0.92f, 0.93f, 0.94f, 0.95f, 0.96f, 0.97f, 0.98f, 0.99f, 1.0f,
                                      1.01f, 1.02f, 1.03f, 1.04f, 1.05f, 1.06f, 1.07f, 1.08f};
  const Trials trials = effort == Effort::kFast   ? Trials{kFew, kFewBeyond}
                        : effort == Effort::kBest ? Trials{kMany, kManyBeyond}
                                                  : Trials{kSome, kSomeBeyond};
  const int refits = effort == Effort::kBest ? 3 : effort == Effort::kNormal ? 1 : 0;
  if (type == BlockType::kIQ4_NL) return std::make_unique<Iq4NlGrid>(trials, refits);
  if (type != BlockType::kIQ4_XS) return nullptr;
  return std::make_unique<Iq4XsGrid>(TwoLevelPlan{trials, kRatios, refits});
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
