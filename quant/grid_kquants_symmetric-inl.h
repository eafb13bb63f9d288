// Q3_K Q6_K: super-blocks of 256 with an fp16 d; each sub-block of 16 has a signed integer n, and
// value = d n q. The search is that of lane_two_level-inl.h. With importance a few columns decide,
// so scales that cut even the largest weights short are worth a trial; without, where the type is
// coarse, a few scales about the largest weight are within a few thousandths of the best of all.
#include <memory>

#include "quant/codec_blocks.h"
#include "quant/grid.h"
#include "quant/lane_pack-inl.h"
#include "quant/lane_two_level-inl.h"

#if defined(PENNYWEIGHT_QUANT_GRID_KQUANTS_SYMMETRIC_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_QUANT_GRID_KQUANTS_SYMMETRIC_INL_H_
#undef PENNYWEIGHT_QUANT_GRID_KQUANTS_SYMMETRIC_INL_H_
#else
#define PENNYWEIGHT_QUANT_GRID_KQUANTS_SYMMETRIC_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {

// Codes -kCodes..kCodes - 1, which are their own values.
template <int kCodes>
struct SignedCodes {
  static constexpr float kLowest = -kCodes;
  static constexpr float kMostInside = kCodes + 0.45f;  // rounds to kCodes
  static HWY_INLINE V Argument(V inverse) { return inverse; }
  static HWY_INLINE V Value(V t) {
    return NearestV(ClampV(t, Splat(kLowest), Splat(-kLowest - 1.0f)));
  }
  static HWY_INLINE V ValueInside(V t) { return NearestV(hn::Min(t, Splat(-kLowest - 1.0f))); }
};

template <BlockType kType, int kCodes, int kTop>
class SymmetricKGrid final : public BlockGrid {
 public:
  SymmetricKGrid(const TwoLevelPlan& plain, const TwoLevelPlan& weighted)
      : BlockGrid(kSuper, kSub, 1, TraitsOf(kType).bytes),
        scales_(plain, weighted),
        codes_(kSuper * kLanes) {}

  void BeginBlock(const float* w, const float* h, ScaleSearch search) override {
    scales_.Fit(w, h, search);
  }
  void BeginSubBlock(int64_t s, const float* w, const float* h) override {
    scales_.FitSub(s, w, h);
  }

  void Round(int64_t i, const float* w, const float*, int64_t, float* decoded) override {
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      const V scale = LoadCol(scales_.scale(i / kSub) + l, 0);
      const V q = Code(w + l, i, 0, l);
      hn::StoreU(hn::Mul(scale, q), LaneTag(), decoded + l);
    }
  }

  void Encode(const float* w, const float* h, ScaleSearch search, uint8_t* out) override {
    scales_.Fit(w, h, search);
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      for (int64_t i = 0; i < kSuper; ++i) Code(w + l, i, i, l);
    }
    Pack(out);
  }

  void TakeLanes(const BlockGrid& other, const LaneMask& lanes) override {
    const auto& from = static_cast<const SymmetricKGrid&>(other);
    scales_.TakeLanes(from.scales_, lanes);
    pennyweight::TakeLanes(from.codes_.data(), kSuper, lanes, codes_.data());
  }

  void Pack(uint8_t* out) const override {
    HWY_ALIGN uint8_t columns[kMostColumns * kLanes];
    HWY_ALIGN uint8_t integers[16 * kLanes];
    if constexpr (kType == BlockType::kQ3_K) {
      PackQ3_K(columns, integers);
      // 108 columns, the last 12 by way of whole vectors.
      TransposeBytes(columns, 96, out, packed_bytes());
      HWY_ALIGN uint8_t tail[16 * kLanes];
      TransposeBytes(columns + 96 * kLanes, 16, tail, 16);
      for (int64_t l = 0; l < kLanes; ++l) {
        std::memcpy(out + l * packed_bytes() + 96, tail + l * 16, 12);
      }
    } else {
      PackQ6_K(columns);
      TransposeBytes(columns, 208, out, packed_bytes());
    }
    StoreF16Lanes(scales_.d(), out + packed_bytes() - 2, packed_bytes());
  }

 private:
  using Scales = TwoLevelScales<SignedCodes<kCodes>, 16, kTop>;
  static constexpr int64_t kSuper = Scales::kSuper;
  static constexpr int64_t kSub = 16;
  static constexpr int64_t kMostColumns = 208;

  // Chooses and keeps the code of column i, of the weights in column `from` of w.
  HWY_INLINE V Code(const float* w, int64_t i, int64_t from, int64_t l) {
    const V argument = LoadCol(scales_.argument(i / kSub) + l, 0);
    const V q =
        SignedCodes<kCodes>::Value(hn::Mul(hn::LoadU(LaneTag(), w + from * kLanes), argument));
    StoreCode(hn::Add(q, Splat(kCodes)), codes_.data() + l, i);
    return q;
  }

  // hmask[32], qs[64], scales[12]: layouts in codec_kquants.cc.
  void PackQ3_K(uint8_t* columns, uint8_t* integers) const {
    const uint8_t* codes = codes_.data();
    MergeFields<2, 1>(codes, 1, 32, 32, columns);
    for (int64_t half = 0; half < 2; ++half) {
      MergeFields<0, 2>(codes + half * 128 * kLanes, 1, 32, 32,
                        columns + (32 + half * 32) * kLanes);
    }
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      for (int64_t j = 0; j < 16; ++j) {
        StoreCode(hn::Add(LoadCol(scales_.integer(j) + l, 0), Splat(32.0f)), integers + l, j);
      }
    }
    MergeFields<0, 4>(integers, 1, 8, 8, columns + 96 * kLanes);
    MergeFields<4, 2>(integers, 1, 4, 4, columns + 104 * kLanes);
    std::memset(columns + 108 * kLanes, 0, 4 * kLanes);  // transposed, but not used
  }

  // ql[128], qh[64], scales[16].
  void PackQ6_K(uint8_t* columns) const {
    for (int64_t half = 0; half < 2; ++half) {
      const uint8_t* codes = codes_.data() + half * 128 * kLanes;
      MergeFields<0, 4>(codes, 1, 64, 64, columns + half * 64 * kLanes);
      MergeFields<4, 2>(codes, 1, 32, 32, columns + (128 + half * 32) * kLanes);
    }
    for (int64_t l = 0; l < kLanes; l += VWidth()) {
      for (int64_t j = 0; j < 16; ++j) {
        StoreSignedCode(LoadCol(scales_.integer(j) + l, 0), columns + 192 * kLanes + l, j);
      }
    }
  }

  Scales scales_;
  LaneArray<uint8_t> codes_;  // plus kCodes
};

std::unique_ptr<BlockGrid> MakeSymmetricKGridImpl(BlockType type, Effort effort) {
  // Trials: the code value of the largest weight, below zero with its sign turned. Q6_K's codes are
  // so fine that larger scales than needed, down to two thirds of the codes, are as good a start.
  static constexpr float kQ3Few[] = {3.0f, 3.4f, 3.8f, 4.3f};
  static constexpr float kQ3Plain[] = {2.9f, 3.2f, 3.5f, 3.8f, 4.1f, 4.4f};
  static constexpr float kQ3Some[] = {3.0f, 3.4f, 3.8f, 4.2f, -2.6f, -3.0f, -3.4f, -3.8f, -4.2f};
  static constexpr float kQ3Beyond[] = {4.6f, 5.2f, 6.0f, -4.6f, -5.2f, -6.0f};
  static constexpr float kQ3All[] = {2.8f,  3.0f,  3.2f,  3.4f,  3.6f,  3.8f,  4.0f,
                                     4.2f,  4.4f,  -2.4f, -2.6f, -2.8f, -3.0f, -3.2f,
                                     -3.4f, -3.6f, -3.8f, -4.0f, -4.2f, -4.4f};
  static constexpr float kQ3AllBeyond[] = {4.6f, 4.8f,  5.2f,  5.6f,  6.0f,
                                           7.0f, -4.6f, -5.2f, -6.0f, -7.0f};
  static constexpr float kQ6Few[] = {28, 29, 30, 31, 32, -27.5f, -28.5f, -29.5f, -30.5f, -31.5f};
  static constexpr float kQ6Some[] = {21,     22,     23,     24,     25,     26,
                                      27,     28,     29,     30,     31,     32,
                                      -20.5f, -21.5f, -22.5f, -23.5f, -24.5f, -25.5f,
                                      -26.5f, -27.5f, -28.5f, -29.5f, -30.5f, -31.5f};
  static constexpr float kQ6All[] = {
      17.2f,  17.9f,  18.6f,  19.3f,  20,     20.5f,  21,     21.5f,  22,     22.5f,
      23,     23.5f,  24,     24.5f,  25,     25.5f,  26,     26.5f,  27,     27.5f,
      28,     28.5f,  29,     29.5f,  30,     30.5f,  31,     31.5f,  32,     32.4f,
      -17.5f, -18.2f, -18.9f, -19.6f, -20.3f, -20.8f, -21.3f, -21.8f, -22.3f, -22.8f,
      -23.3f, -23.8f, -24.3f, -24.8f, -25.3f, -25.8f, -26.3f, -26.8f, -27.3f, -27.8f,
      -28.3f, -28.8f, -29.3f, -29.8f, -30.3f, -30.8f, -31.3f, -31.8f, -32.4f};
  // The least error lies where the largest scale is cut short a little, or does not reach -top.
  static constexpr float kFewRatios[] = {0.97f, 1.0f, 1.03f, 1.06f};
  static constexpr float kManyRatios[] = {0.9f,  0.92f, 0.94f, 0.95f, 0.96f, 0.97f,
                                          0.98f, 0.99f, 1.0f,  1.01f, 1.02f, 1.03f,
                                          1.04f, 1.05f, 1.06f, 1.07f, 1.08f};
  static constexpr float kQ6Ratios[] = {0.98f,  0.985f, 0.99f,  0.995f, 1.0f,
                                        1.005f, 1.01f,  1.015f, 1.02f};
  TwoLevelPlan plain, weighted;
  switch (type) {
    case BlockType::kQ3_K:
      plain = {{kQ3Plain, {}}, kFewRatios, 0};
      weighted = {{kQ3Some, kQ3Beyond}, kManyRatios, 1};
      if (effort == Effort::kFast) plain = weighted = {{kQ3Few, {}}, kFewRatios, 0};
      if (effort == Effort::kBest) plain = weighted = {{kQ3All, kQ3AllBeyond}, kManyRatios, 2};
      return std::make_unique<SymmetricKGrid<BlockType::kQ3_K, 4, 32>>(plain, weighted);
    case BlockType::kQ6_K:
      plain = weighted = {{kQ6Some, {}}, kQ6Ratios, 1};
      if (effort == Effort::kFast) plain = weighted = {{kQ6Few, {}}, kQ6Ratios, 0};
      if (effort == Effort::kBest) plain = weighted = {{kQ6All, {}}, kManyRatios, 2};
      return std::make_unique<SymmetricKGrid<BlockType::kQ6_K, 32, 128>>(plain, weighted);
    default:
      return nullptr;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#endif  // include guard per target
