#include "quant/row_minmax.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "lib/dtype.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/row_minmax.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "quant/lane_pack-inl.h"
#include "quant/lane_search-inl.h"

HWY_BEFORE_NAMESPACE();
namespace pennyweight {
namespace HWY_NAMESPACE {

// Here the lanes of a vector are consecutive weights of one row; only scales are computed with a
// block in each lane.

// The scale of a block is its weight of largest magnitude (with its sign, if so told) / divisor;
// codes are integers in [lo, hi].
struct RowFormat {
  int64_t width;
  float divisor;
  bool signed_top;
  float lo, hi;
  DType dtype;
};

// kLanes blocks side by side.
struct BlockScales {
  alignas(kLaneAlign) float low[kLanes], high[kLanes];                   // of the weights
  alignas(kLaneAlign) float up[kLanes], inverse[kLanes], scale[kLanes];  // scale: 0 or as stored
};

HWY_INLINE void FindRowExtremes(const float* w, int64_t n, float* low, float* high) {
  const LaneTag d;
  const int64_t step = VWidth();
  float least = w[n - 1], most = w[n - 1];
  int64_t i = 0;
  if (n >= step) {
    V a = hn::LoadU(d, w), b = a;
    for (i = step; i + step <= n; i += step) {
      const V x = hn::LoadU(d, w + i);
      a = hn::Min(a, x);
      b = hn::Max(b, x);
    }
    least = hn::GetLane(hn::MinOfLanes(d, a));
    most = hn::GetLane(hn::MaxOfLanes(d, b));
  }
  for (; i < n; ++i) {
    least = std::min(least, w[i]);
    most = std::max(most, w[i]);
  }
  *low = least;
  *high = most;
}

// Where the sign does not matter: half the work.
HWY_INLINE float FindRowTop(const float* w, int64_t n) {
  const LaneTag d;
  const int64_t step = VWidth();
  float top = 0;
  int64_t i = 0;
  if (n >= step) {
    V a = hn::Abs(hn::LoadU(d, w)), b = hn::Zero(d);
    for (i = step; i + 2 * step <= n; i += 2 * step) {
      a = hn::Max(a, hn::Abs(hn::LoadU(d, w + i)));
      b = hn::Max(b, hn::Abs(hn::LoadU(d, w + i + step)));
    }
    for (; i + step <= n; i += step) a = hn::Max(a, hn::Abs(hn::LoadU(d, w + i)));
    top = hn::GetLane(hn::MaxOfLanes(d, hn::Max(a, b)));
  }
  for (; i < n; ++i) top = std::max(top, std::abs(w[i]));
  return top;
}

HWY_INLINE void FindScales(const RowFormat& format, const float* w, int64_t count, BlockScales* s) {
  for (int64_t k = 0; k < kLanes; ++k) {
    if (k < count && !format.signed_top) {
      s->high[k] = FindRowTop(w + k * format.width, format.width);
      s->low[k] = -s->high[k];
    } else if (k < count) {
      FindRowExtremes(w + k * format.width, format.width, s->low + k, s->high + k);
    } else {
      s->low[k] = s->high[k] = 0;
    }
  }
  for (int64_t l = 0; l < kLanes; l += VWidth()) {
    const Normal block({LoadCol(s->low + l, 0), LoadCol(s->high + l, 0)});
    const V top = format.signed_top ? block.SignedTop() : block.Top();
    const V scale = block.Stored(format.dtype, hn::Div(top, Splat(format.divisor)));
    StoreCol(block.up, s->up + l, 0);
    StoreCol(DivOrZero(Splat(1.0f), scale), s->inverse + l, 0);
    StoreCol(hn::Mul(scale, block.down), s->scale + l, 0);
  }
}

struct BlockScale {
  V up, inverse, lo, hi;
};
HWY_INLINE V CodesOf(V w, const BlockScale& s) {
  return NearestV(ClampV(hn::Mul(hn::Mul(w, s.up), s.inverse), s.lo, s.hi));
}

// The signed codes of w[n].
HWY_INLINE void WriteBytes(const float* w, int64_t n, const BlockScale& s, uint8_t* out) {
  const LaneTag d;
  const int64_t step = VWidth();
  int64_t i = 0;
  for (; i + step <= n; i += step) StoreSignedCode(CodesOf(hn::LoadU(d, w + i), s), out + i, 0);
  if (i == n) return;
  alignas(kLaneAlign) float rest[kLanes] = {};
  alignas(kLaneAlign) uint8_t codes[kLanes];
  std::copy(w + i, w + n, rest);
  StoreSignedCode(CodesOf(hn::Load(d, rest), s), codes, 0);
  std::memcpy(out + i, codes, static_cast<size_t>(n - i));
}

// Codes j and j + 16 of a block of 32 in one byte.
HWY_INLINE void WriteNibbles(const float* w, const BlockScale& s, uint8_t* out) {
  const LaneTag d;
  for (int64_t j = 0; j < 16; j += VWidth()) {
    const V low = hn::Sub(CodesOf(hn::LoadU(d, w + j), s), s.lo);
    const V high = hn::Sub(CodesOf(hn::LoadU(d, w + j + 16), s), s.lo);
    StoreCode(hn::Add(low, hn::Mul(high, Splat(16.0f))), out + j, 0);
  }
}

template <class Write>
HWY_INLINE void EncodeBlocks(const RowFormat& format, const float* w, int64_t blocks,
                             const Write& write) {
  BlockScales s;
  for (int64_t b = 0; b < blocks; b += kLanes) {
    const int64_t count = std::min(kLanes, blocks - b);
    FindScales(format, w + b * format.width, count, &s);
    for (int64_t k = 0; k < count; ++k) {
      const BlockScale scale{Splat(s.up[k]), Splat(s.inverse[k]), Splat(format.lo),
                             Splat(format.hi)};
      write(b + k, w + (b + k) * format.width, scale, s.scale[k]);
    }
  }
}

void EncodeRowMinMaxImpl(const float* w, int64_t row, EncodedTensor* out) {
  const Encoding& encoding = out->encoding;
  if (encoding.kind == Encoding::Kind::kBlock) {
    const bool nibbles = encoding.block == BlockType::kQ4_0;
    RowFormat format{32, 127, false, -127, 127, DType::kF16};
    if (nibbles) format = {32, -8, true, -8, 7, DType::kF16};
    const int64_t bytes = TraitsOf(encoding.block).bytes;
    uint8_t* to = out->data.data() + row * (out->cols / 32) * bytes;
    return EncodeBlocks(format, w, out->cols / 32,
                        [&](int64_t b, const float* x, const BlockScale& s, float scale) {
                          uint8_t* block = to + b * bytes;
                          const uint16_t half = F32ToF16(scale);
                          std::memcpy(block, &half, sizeof(half));
                          if (nibbles) return WriteNibbles(x, s, block + 2);
                          WriteBytes(x, 32, s, block + 2);
                        });
  }
  const IntegerSpec& spec = encoding.integer;
  const int64_t groups = spec.Groups(out->cols);
  const auto half = static_cast<float>(1 << (spec.bits - 1));
  const RowFormat format{out->cols / groups, half - 0.5f, false, -half, half - 1, spec.scale_dtype};
  auto* codes = reinterpret_cast<uint8_t*>(out->codes.data()) + row * out->cols;
  const int64_t scale_bytes = DTypeBits(spec.scale_dtype) / 8;
  uint8_t* scales = out->scales.data() + row * groups * scale_bytes;
  EncodeBlocks(format, w, groups, [&](int64_t b, const float* x, const BlockScale& s, float scale) {
    WriteBytes(x, format.width, s, codes + b * format.width);
    const float stored = scale == 0 ? 1 : scale;  // see quant/grid_integer-inl.h
    EncodeFromFloat(spec.scale_dtype, &stored, scales + b * scale_bytes, 1);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace pennyweight
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace pennyweight {

HWY_EXPORT(EncodeRowMinMaxImpl);

bool HasRowMinMax(const Encoding& encoding) {
  if (encoding.kind == Encoding::Kind::kInteger) return encoding.integer.symmetric;
  return encoding.kind == Encoding::Kind::kBlock &&
         (encoding.block == BlockType::kQ4_0 || encoding.block == BlockType::kQ8_0);
}

void EncodeRowMinMax(const float* w, int64_t row, EncodedTensor* out) {
  HWY_DYNAMIC_DISPATCH(EncodeRowMinMaxImpl)(w, row, out);
}

}  // namespace pennyweight
#endif  // HWY_ONCE
