#include "quant/lanes.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/lanes.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Quad = hn::FixedTag<float, 4>;
using QuadVec = hn::Vec<Quad>;

struct Quads {
  QuadVec v[4];
};

// Element j of row i becomes element i of row j.
HWY_INLINE Quads Transpose(const Quads& m) {
  const Quad d;
  const hn::Repartition<uint64_t, Quad> d64;
  const auto pair_lower = [&](QuadVec a, QuadVec b) {
    return hn::BitCast(d, hn::InterleaveLower(d64, hn::BitCast(d64, a), hn::BitCast(d64, b)));
  };
  const auto pair_upper = [&](QuadVec a, QuadVec b) {
    return hn::BitCast(d, hn::InterleaveUpper(d64, hn::BitCast(d64, a), hn::BitCast(d64, b)));
  };
  const QuadVec a = hn::InterleaveLower(d, m.v[0], m.v[1]);
  const QuadVec b = hn::InterleaveLower(d, m.v[2], m.v[3]);
  const QuadVec c = hn::InterleaveUpper(d, m.v[0], m.v[1]);
  const QuadVec e = hn::InterleaveUpper(d, m.v[2], m.v[3]);
  return {{pair_lower(a, b), pair_upper(a, b), pair_lower(c, e), pair_upper(c, e)}};
}

void LoadLanesImpl(const float* rows, int64_t stride, int64_t count, int64_t n, float* out) {
  const Quad d;
  int64_t i = 0;
  if (count == kLanes) {
    // Four rows at a time along a cache line: kLanes lines, a power of two apart, would evict each
    // other.
    for (; i < n / 4 * 4; i += kLanes) {
      const int64_t end = std::min(i + kLanes, n / 4 * 4);
      for (int64_t l = 0; l < kLanes; l += 4) {
        for (int64_t c = i; c < end; c += 4) {
          Quads m;
          for (int64_t k = 0; k < 4; ++k) m.v[k] = hn::LoadU(d, rows + (l + k) * stride + c);
          m = Transpose(m);
          for (int64_t k = 0; k < 4; ++k) hn::StoreU(m.v[k], d, out + (c + k) * kLanes + l);
        }
      }
    }
    i = n / 4 * 4;
  }
  for (; i < n; ++i) {
    for (int64_t l = 0; l < count; ++l) out[i * kLanes + l] = rows[l * stride + i];
    std::fill(out + i * kLanes + count, out + (i + 1) * kLanes, 0.0f);
  }
}

void StoreLanesImpl(const float* lanes, int64_t count, int64_t n, float* rows, int64_t stride) {
  const Quad d;
  int64_t i = 0;
  if (count == kLanes) {
    for (; i + 4 <= n; i += 4) {
      for (int64_t l = 0; l < kLanes; l += 4) {
        Quads m;
        for (int64_t k = 0; k < 4; ++k) m.v[k] = hn::LoadU(d, lanes + (i + k) * kLanes + l);
        m = Transpose(m);
        for (int64_t k = 0; k < 4; ++k) hn::StoreU(m.v[k], d, rows + (l + k) * stride + i);
      }
    }
  }
  for (; i < n; ++i) {
    for (int64_t l = 0; l < count; ++l) rows[l * stride + i] = lanes[i * kLanes + l];
  }
}

void AddOuterImpl(const float* e, const float* r, int64_t n, float* lanes) {
  const hn::CappedTag<float, kLanes> d;
  const auto width = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t l = 0; l < kLanes; l += width) {
    const auto ve = hn::LoadU(d, e + l);
    for (int64_t k = 0; k < n; ++k) {
      float* at = lanes + k * kLanes + l;
      hn::StoreU(hn::MulAdd(ve, hn::Set(d, r[k]), hn::LoadU(d, at)), d, at);
    }
  }
}

int64_t FindNonFiniteImpl(const float* w, int64_t n) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const auto width = static_cast<int64_t>(hn::Lanes(d));
  const auto mask = hn::Set(di, 0x7FFFFFFF);
  const auto limit = hn::Set(di, 0x7F800000);
  int64_t i = 0;
  for (; i + 4 * width <= n; i += 4 * width) {
    auto top = hn::Zero(di);
    for (int64_t k = 0; k < 4; ++k) {
      top = hn::Max(top, hn::And(hn::BitCast(di, hn::LoadU(d, w + i + k * width)), mask));
    }
    if (!hn::AllTrue(di, hn::Lt(top, limit))) break;
  }
  for (; i < n; ++i) {
    if (!std::isfinite(w[i])) return i;
  }
  return -1;
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace pennyweight {

HWY_EXPORT(LoadLanesImpl);
HWY_EXPORT(StoreLanesImpl);
HWY_EXPORT(AddOuterImpl);
HWY_EXPORT(FindNonFiniteImpl);

void LoadLanes(const float* rows, int64_t stride, int64_t count, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(LoadLanesImpl)(rows, stride, count, n, out);
}

void StoreLanes(const float* lanes, int64_t count, int64_t n, float* rows, int64_t stride) {
  HWY_DYNAMIC_DISPATCH(StoreLanesImpl)(lanes, count, n, rows, stride);
}

void AddOuter(const float* e, const float* r, int64_t n, float* lanes) {
  HWY_DYNAMIC_DISPATCH(AddOuterImpl)(e, r, n, lanes);
}

int64_t FindNonFinite(const float* w, int64_t n) {
  return HWY_DYNAMIC_DISPATCH(FindNonFiniteImpl)(w, n);
}

double NormalizeImportance(std::span<const float> importance, int64_t n, float* out) {
  double sum = 0;
  for (const float v : importance) sum += std::max(v, 0.0f);
  if (importance.empty() || !std::isfinite(sum) || !(sum > 0)) {
    std::fill(out, out + n, 1.0f);
    return 1.0;
  }
  const double mean = sum / static_cast<double>(n);
  for (int64_t i = 0; i < n; ++i) {
    const double relative = std::max(importance[static_cast<size_t>(i)], 0.0f) / mean;
    out[i] = static_cast<float>((relative + 1e-3) / (1 + 1e-3));
  }
  return mean;
}

}  // namespace pennyweight
#endif  // HWY_ONCE
