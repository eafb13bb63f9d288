// Integer codes: value = (code - zero) * scale, the scale in f16, bf16 or f32 of either sign.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include "lib/dtype.h"
#include "quant/row_grids.h"
#include "quant/scale_search.h"

namespace pennyweight {
namespace {

class IntegerGrid final : public RowGrid {
 public:
  IntegerGrid(const IntegerSpec& spec, int64_t width)
      : RowGrid(width, width),
        spec_(spec),
        lo_(-(1 << (spec.bits - 1))),
        hi_((1 << (spec.bits - 1)) - 1),
        fit_(width),
        codes_(static_cast<size_t>(width)) {}

  void BeginBlock(std::span<const float> w, std::span<const float> importance,
                  ScaleSearch search) override {
    fit_.Load(w, importance);
    zero_ = 0;
    if (fit_.zero()) {
      scale_ = 0;
    } else if (spec_.symmetric) {
      // Half of the code range, as compressed-tensors' own observer: the largest weight of one
      // sign is met exactly, that of the other up to half a step.
      const float amax = std::max(-fit_.min(), fit_.max());
      const float half = static_cast<float>(hi_ - lo_) / 2;
      float scale = Stored(amax / half);
      if (search == ScaleSearch::kSearch) {
        scale = SearchSymmetricStored(fit_, static_cast<float>(lo_), static_cast<float>(hi_),
                                      spec_.scale_dtype, scale)
                    .scale;
      }
      scale_ = scale * fit_.unit();
    } else {
      BeginAsymmetric(search);
    }
    // Too small for the scale's dtype: all codes are zero, and any scale decodes them alike. A
    // stored zero would make readers that divide by it fail.
    dead_ = scale_ == 0;
    if (dead_) {
      scale_ = 1;
      zero_ = 0;
    }
  }

  void BeginSubBlock(int64_t, std::span<const float>, std::span<const float>) override {}

  float Round(int64_t i, float w) override {
    if (dead_) {
      codes_[static_cast<size_t>(i)] = 0;
      return 0;
    }
    const float steps =
        ClampTo(w / scale_, static_cast<float>(lo_ - zero_), static_cast<float>(hi_ - zero_));
    const float q = NearestInteger(steps);
    codes_[static_cast<size_t>(i)] = static_cast<int8_t>(static_cast<int>(q) + zero_);
    return q * scale_;
  }

  void Pack(EncodedTensor* out, int64_t row, int64_t b) const override {
    const int64_t groups = spec_.Groups(out->cols);
    const auto at = static_cast<size_t>(row * groups + b);
    std::memcpy(out->codes.data() + row * out->cols + b * block(), codes_.data(), codes_.size());
    const auto bytes = static_cast<size_t>(DTypeBits(spec_.scale_dtype) / 8);
    EncodeFromFloat(spec_.scale_dtype, &scale_, out->scales.data() + at * bytes, 1);
    if (!spec_.symmetric) out->zeros[at] = static_cast<int8_t>(zero_);
  }

 private:
  // A normalised scale as stored, still normalised.
  float Stored(float scale) const { return RoundStored(spec_.scale_dtype, fit_.unit(), scale); }

  void BeginAsymmetric(ScaleSearch search) {
    const float low = std::min(fit_.min(), 0.0f);
    const float high = std::max(fit_.max(), 0.0f);
    ZeroPointFit best;
    best.scale = Stored((high - low) / static_cast<float>(hi_ - lo_));
    if (best.scale != 0) {
      const float ideal = static_cast<float>(lo_) - low / best.scale;
      best.zero = static_cast<int>(
          NearestInteger(ClampTo(ideal, static_cast<float>(lo_), static_cast<float>(hi_))));
    }
    if (search == ScaleSearch::kSearch) {
      best = SearchZeroPointStored(fit_, lo_, hi_, spec_.scale_dtype, best);
    }
    scale_ = best.scale * fit_.unit();
    zero_ = best.zero;
  }

  IntegerSpec spec_;
  int lo_, hi_;
  FitBlock fit_;
  std::vector<int8_t> codes_;
  float scale_ = 1;
  int zero_ = 0;
  bool dead_ = true;
};

}  // namespace

std::unique_ptr<RowGrid> MakeIntegerRowGrid(const IntegerSpec& spec, int64_t cols) {
  if (spec.bits < 2 || spec.bits > 8 || !IsFloatDType(spec.scale_dtype) || spec.act_order) {
    return nullptr;
  }
  return std::make_unique<IntegerGrid>(spec, spec.group_size == 0 ? cols : spec.group_size);
}

}  // namespace pennyweight
