#include "calib/ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "calib/ops.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
// Must come after foreach_target.h.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "lib/checked.h"
#include "lib/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace pennyweight::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using F32 = hn::ScalableTag<float>;
using F64 = hn::ScalableTag<double>;
using HalfF32 = hn::Rebind<float, F64>;

// Calls body(vector offset) for whole vectors, then tail(offset, count) once for what is left.
template <class Body, class Tail>
HWY_INLINE void ForVectors(int64_t n, Body&& body, Tail&& tail) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(F32()));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(i);
  if (i < n) tail(i, n - i);
}

// A row's last values in a whole vector, filled up with `fill`.
HWY_INLINE hn::Vec<F32> LoadTail(const float* from, int64_t count, float fill) {
  HWY_ALIGN float padded[hn::MaxLanes(F32())];
  for (size_t i = 0; i < hn::MaxLanes(F32()); ++i) {
    padded[i] = static_cast<int64_t>(i) < count ? from[i] : fill;
  }
  return hn::Load(F32(), padded);
}

HWY_INLINE void StoreTail(hn::Vec<F32> values, int64_t count, float* to) {
  HWY_ALIGN float padded[hn::MaxLanes(F32())];
  hn::Store(values, F32(), padded);
  for (int64_t i = 0; i < count; ++i) to[i] = padded[i];
}

// out[i] = function(i as vector of a, of b); all maps of one or two rows.
template <class Function>
HWY_INLINE void MapRows(const float* a, const float* b, int64_t n, float* out,
                        const Function& function) {
  const F32 d;
  ForVectors(
      n,
      [&](int64_t i)
          HWY_ATTR { hn::StoreU(function(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, out + i); },
      [&](int64_t i, int64_t count) HWY_ATTR {
        StoreTail(function(LoadTail(a + i, count, 0), LoadTail(b + i, count, 0)), count, out + i);
      });
}

// Adds the lanes of a float vector to two double accumulators.
HWY_INLINE void Accumulate(hn::Vec<F32> values, hn::Vec<F64>& low, hn::Vec<F64>& high) {
  const F64 d64;
  const HalfF32 half;
  low = hn::Add(low, hn::PromoteTo(d64, hn::LowerHalf(half, values)));
  high = hn::Add(high, hn::PromoteTo(d64, hn::UpperHalf(half, values)));
}

// Sum over a row of function(values of a, values of b); tails are filled with fill_a and 0.
template <class Function>
HWY_INLINE double SumRows(const float* a, const float* b, int64_t n, float fill_a,
                          const Function& function) {
  const F32 d;
  const F64 d64;
  hn::Vec<F64> low = hn::Zero(d64);
  hn::Vec<F64> high = hn::Zero(d64);
  ForVectors(
      n,
      [&](int64_t i)
          HWY_ATTR { Accumulate(function(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), low, high); },
      [&](int64_t i, int64_t count) HWY_ATTR {
        Accumulate(function(LoadTail(a + i, count, fill_a), LoadTail(b + i, count, 0)), low, high);
      });
  return hn::GetLane(hn::SumOfLanes(d64, hn::Add(low, high)));
}

void RmsNormRowImpl(const float* in, const float* weight, int64_t n, double epsilon, float* out) {
  const F32 d;
  const F64 d64;
  const HalfF32 half;
  hn::Vec<F64> low = hn::Zero(d64);
  hn::Vec<F64> high = hn::Zero(d64);
  const auto add = [&](hn::Vec<F32> x) HWY_ATTR {
    const auto a = hn::PromoteTo(d64, hn::LowerHalf(half, x));
    const auto b = hn::PromoteTo(d64, hn::UpperHalf(half, x));
    low = hn::MulAdd(a, a, low);
    high = hn::MulAdd(b, b, high);
  };
  ForVectors(
      n, [&](int64_t i) HWY_ATTR { add(hn::LoadU(d, in + i)); },
      [&](int64_t i, int64_t count) HWY_ATTR { add(LoadTail(in + i, count, 0)); });
  const double squares = hn::GetLane(hn::SumOfLanes(d64, hn::Add(low, high)));
  const auto scale =
      static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(n) + epsilon));
  const auto scales = hn::Set(d, scale);
  MapRows(in, weight, n, out,
          [&](auto x, auto w) HWY_ATTR { return hn::Mul(hn::Mul(x, scales), w); });
}

void RotateHeadsImpl(float* row, int64_t heads, int64_t head_dim, const float* cosine,
                     const float* sine) {
  const F32 d;
  const int64_t half = head_dim / 2;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t h = 0; h < heads; ++h) {
    float* first = row + h * head_dim;
    float* second = first + half;
    int64_t i = 0;
    for (; i + lanes <= half; i += lanes) {
      const auto x = hn::LoadU(d, first + i);
      const auto y = hn::LoadU(d, second + i);
      const auto c = hn::LoadU(d, cosine + i);
      const auto s = hn::LoadU(d, sine + i);
      hn::StoreU(hn::Sub(hn::Mul(x, c), hn::Mul(y, s)), d, first + i);
      hn::StoreU(hn::Add(hn::Mul(y, c), hn::Mul(x, s)), d, second + i);
    }
    for (; i < half; ++i) {
      const float x = first[i];
      const float y = second[i];
      first[i] = x * cosine[i] - y * sine[i];
      second[i] = y * cosine[i] + x * sine[i];
    }
  }
}

void SiluGateRowImpl(const float* gate, const float* up, int64_t n, float* out) {
  const F32 d;
  MapRows(gate, up, n, out, [&](auto x, auto y) HWY_ATTR {
    // Exp says nothing of arguments whose result overflows; beyond 88 the quotient is 0 either way.
    const auto power = hn::Min(hn::Neg(x), hn::Set(d, 88.0f));
    const auto below = hn::Add(hn::Set(d, 1.0f), hn::Exp(d, power));
    return hn::Mul(hn::Div(x, below), y);
  });
}

void AddRowImpl(const float* in, int64_t n, float* out) {
  MapRows(in, out, n, out, [](auto x, auto y) HWY_ATTR { return hn::Add(y, x); });
}

float MaxOfRowImpl(const float* row, int64_t n) {
  const F32 d;
  hn::Vec<F32> max = hn::Set(d, -std::numeric_limits<float>::infinity());
  hn::Vec<F32> poison = hn::Zero(d);  // 0, or NaN once a value is not finite
  const auto take = [&](hn::Vec<F32> x) HWY_ATTR {
    max = hn::Max(max, x);
    poison = hn::Add(poison, hn::Mul(x, hn::Zero(d)));
  };
  ForVectors(
      n, [&](int64_t i) HWY_ATTR { take(hn::LoadU(d, row + i)); },
      [&](int64_t i, int64_t count) HWY_ATTR { take(LoadTail(row + i, count, row[i])); });
  const float bad = hn::GetLane(hn::SumOfLanes(d, poison));
  return hn::GetLane(hn::MaxOfLanes(d, max)) + bad;
}

double SumExpImpl(const float* row, int64_t n, float max) {
  const F32 d;
  const auto top = hn::Set(d, max);
  return SumRows(row, row, n, -std::numeric_limits<float>::infinity(),
                 [&](auto x, auto) HWY_ATTR { return hn::Exp(d, hn::Sub(x, top)); });
}

double SumExpDifferenceImpl(const float* row, const float* other, int64_t n, float max) {
  const F32 d;
  const auto top = hn::Set(d, max);
  // exp of the fill is 0, its difference finite: a tail adds nothing.
  return SumRows(row, other, n, std::numeric_limits<float>::lowest(), [&](auto x, auto y) HWY_ATTR {
    return hn::Mul(hn::Exp(d, hn::Sub(x, top)), hn::Sub(x, y));
  });
}

void AddScaledRowImpl(const float* in, float scale, int64_t n, float* out) {
  const auto scales = hn::Set(F32(), scale);
  MapRows(in, out, n, out, [&](auto x, auto y) HWY_ATTR { return hn::MulAdd(x, scales, y); });
}

void SoftmaxRowImpl(float* row, int64_t n, float scale) {
  const F32 d;
  hn::Vec<F32> maxima = hn::Set(d, -std::numeric_limits<float>::infinity());
  ForVectors(
      n, [&](int64_t i) HWY_ATTR { maxima = hn::Max(maxima, hn::LoadU(d, row + i)); },
      [&](int64_t i, int64_t count)
          HWY_ATTR { maxima = hn::Max(maxima, LoadTail(row + i, count, row[i])); });
  const auto top = hn::Set(d, hn::GetLane(hn::MaxOfLanes(d, maxima)));
  const auto scales = hn::Set(d, scale);
  MapRows(row, row, n, row,
          [&](auto x, auto) HWY_ATTR { return hn::Exp(d, hn::Mul(hn::Sub(x, top), scales)); });
  const double sum = SumRows(row, row, n, 0.0f, [](auto x, auto) HWY_ATTR { return x; });
  const auto inverse = hn::Set(d, static_cast<float>(1.0 / sum));
  MapRows(row, row, n, row, [&](auto x, auto) HWY_ATTR { return hn::Mul(x, inverse); });
}

}  // namespace
}  // namespace pennyweight::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace pennyweight {

constexpr int64_t kRowBlock = 64;

HWY_EXPORT(RmsNormRowImpl);
HWY_EXPORT(RotateHeadsImpl);
HWY_EXPORT(SiluGateRowImpl);
HWY_EXPORT(AddRowImpl);
HWY_EXPORT(AddScaledRowImpl);
HWY_EXPORT(SoftmaxRowImpl);
HWY_EXPORT(MaxOfRowImpl);
HWY_EXPORT(SumExpImpl);
HWY_EXPORT(SumExpDifferenceImpl);

void ForRowBlocks(const Context& context, int64_t rows,
                  const std::function<void(int64_t, int64_t)>& body) {
  ParallelFor(context, CeilDiv(rows, kRowBlock), [&](int64_t block) {
    body(block * kRowBlock, std::min(rows, (block + 1) * kRowBlock));
  });
}

void RmsNormRow(const float* in, const float* weight, int64_t n, double epsilon, float* out) {
  HWY_DYNAMIC_DISPATCH(RmsNormRowImpl)(in, weight, n, epsilon, out);
}

void RotateHeads(float* row, int64_t heads, int64_t head_dim, const float* cosine,
                 const float* sine) {
  HWY_DYNAMIC_DISPATCH(RotateHeadsImpl)(row, heads, head_dim, cosine, sine);
}

void SiluGateRow(const float* gate, const float* up, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(SiluGateRowImpl)(gate, up, n, out);
}

void AddRow(const float* in, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(AddRowImpl)(in, n, out);
}

void AddScaledRow(const float* in, float scale, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(AddScaledRowImpl)(in, scale, n, out);
}

void SoftmaxRow(float* row, int64_t n, float scale) {
  HWY_DYNAMIC_DISPATCH(SoftmaxRowImpl)(row, n, scale);
}

float MaxOfRow(const float* row, int64_t n) { return HWY_DYNAMIC_DISPATCH(MaxOfRowImpl)(row, n); }

double SumExp(const float* row, int64_t n, float max) {
  return HWY_DYNAMIC_DISPATCH(SumExpImpl)(row, n, max);
}

double SumExpDifference(const float* row, const float* other, int64_t n, float max) {
  return HWY_DYNAMIC_DISPATCH(SumExpDifferenceImpl)(row, other, n, max);
}

}  // namespace pennyweight
#endif  // HWY_ONCE
