#include "quant/scale_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/scale_kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr int64_t kChains = 8;

// 8 lanes where the target has them, else two vectors of 4: lane l of the pair is chain l.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
constexpr int64_t kWidth = 8;
#else
constexpr int64_t kWidth = 4;
#endif
constexpr int64_t kVectors = kChains / kWidth;
using Tag = hn::FixedTag<float, kWidth>;
using Vec = hn::Vec<Tag>;

// Nearest integer, ties to even, by adding and taking away 1.5 * 2^23.
HWY_INLINE Vec Codes(Vec x, Vec lo, Vec hi, Vec inverse, Vec offset) {
  const Tag tag;
  const Vec magic = hn::Set(tag, 12582912.0f);
  const Vec steps = hn::Mul(hn::Sub(x, offset), inverse);
  const Vec clamped = hn::Min(hn::Max(steps, lo), hi);
  return hn::Sub(hn::Add(clamped, magic), magic);
}

HWY_INLINE float SumChains(const float* c) {
  return ((c[0] + c[4]) + (c[2] + c[6])) + ((c[1] + c[5]) + (c[3] + c[7]));
}

KernelSums SumCodesImpl(const KernelBlock& block, float lo, float hi, float inverse, float offset) {
  const Tag tag;
  const Vec vlo = hn::Set(tag, lo), vhi = hn::Set(tag, hi);
  const Vec vinverse = hn::Set(tag, inverse), voffset = hn::Set(tag, offset);
  HWY_ALIGN float sum_q[kChains], sum_qq[kChains], sum_xq[kChains];
  for (int64_t v = 0; v < kVectors; ++v) {
    Vec q_sum = hn::Zero(tag), qq_sum = hn::Zero(tag), xq_sum = hn::Zero(tag);
    for (int64_t i = v * kWidth; i < block.n; i += kChains) {
      const Vec q = Codes(hn::LoadU(tag, block.x + i), vlo, vhi, vinverse, voffset);
      const Vec hq = hn::Mul(hn::LoadU(tag, block.h + i), q);
      q_sum = hn::Add(q_sum, hq);
      qq_sum = hn::Add(qq_sum, hn::Mul(hq, q));
      xq_sum = hn::Add(xq_sum, hn::Mul(hn::LoadU(tag, block.hx + i), q));
    }
    hn::StoreU(q_sum, tag, sum_q + v * kWidth);
    hn::StoreU(qq_sum, tag, sum_qq + v * kWidth);
    hn::StoreU(xq_sum, tag, sum_xq + v * kWidth);
  }
  return {SumChains(sum_q), SumChains(sum_qq), SumChains(sum_xq)};
}

float SumErrorsImpl(const KernelBlock& block, float lo, float hi, float inverse, float scale,
                    float offset) {
  const Tag tag;
  const Vec vlo = hn::Set(tag, lo), vhi = hn::Set(tag, hi);
  const Vec vinverse = hn::Set(tag, inverse), voffset = hn::Set(tag, offset);
  const Vec vscale = hn::Set(tag, scale);
  HWY_ALIGN float sum[kChains];
  for (int64_t v = 0; v < kVectors; ++v) {
    Vec total = hn::Zero(tag);
    for (int64_t i = v * kWidth; i < block.n; i += kChains) {
      const Vec x = hn::LoadU(tag, block.x + i);
      const Vec q = Codes(x, vlo, vhi, vinverse, voffset);
      const Vec e = hn::Sub(x, hn::Add(hn::Mul(vscale, q), voffset));
      total = hn::Add(total, hn::Mul(hn::Mul(hn::LoadU(tag, block.h + i), e), e));
    }
    hn::StoreU(total, tag, sum + v * kWidth);
  }
  return SumChains(sum);
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace pennyweight {

HWY_EXPORT(SumCodesImpl);
HWY_EXPORT(SumErrorsImpl);

KernelSums SumCodes(const KernelBlock& block, float lo, float hi, float inverse, float offset) {
  return HWY_DYNAMIC_DISPATCH(SumCodesImpl)(block, lo, hi, inverse, offset);
}

float SumErrors(const KernelBlock& block, float lo, float hi, float inverse, float scale,
                float offset) {
  return HWY_DYNAMIC_DISPATCH(SumErrorsImpl)(block, lo, hi, inverse, scale, offset);
}

}  // namespace pennyweight
#endif  // HWY_ONCE
