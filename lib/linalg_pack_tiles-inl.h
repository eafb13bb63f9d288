// Packing into the bf16 tiles of lib/linalg_tile.h, and rounding to bf16. Included by
// lib/linalg_kernels-inl.h, once per instruction set.

// Bits of fp32 rounded to the nearest bf16, ties to even, in the upper half; NaN stays NaN.
// (Highway's own conversion truncates.)
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> RoundBits(V value) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu)));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x00400000u));
  const auto nan = hn::MaskFromVec(hn::VecFromMask(du, hn::RebindMask(du, hn::IsNaN(value))));
  return hn::IfThenElse(nan, quiet, rounded);
}

// In place; `count` is a multiple of kLanes or the rest is inside the caller's padding.
HWY_INLINE void RoundInPlace(float* values, int64_t count) {
  const D d;
  const hn::RebindToUnsigned<D> du;
  const auto upper = hn::Set(du, 0xffff0000u);
  for (int64_t i = 0; i < count; i += kLanes) {
    hn::Store(hn::BitCast(d, hn::And(RoundBits(hn::Load(d, values + i)), upper)), d, values + i);
  }
}

// 32 elements as bf16, of which `width` are there.
HWY_INLINE void ToBf16(const Bf16* from, int64_t width, uint16_t* to) {
  if (width >= kTileSide) {
    memcpy(to, from, kTileSide * sizeof(uint16_t));
    return;
  }
  memset(to, 0, kTileSide * sizeof(uint16_t));
  memcpy(to, from, static_cast<size_t>(width) * sizeof(uint16_t));
}

template <class T>
HWY_INLINE void ToBf16(const T* from, int64_t width, uint16_t* to) {
  const D d;
  const hn::Rebind<uint16_t, D> d16;
  T padded[kTileSide];
  if (width < kTileSide) {
    memset(padded, 0, sizeof(padded));
    memcpy(padded, from, static_cast<size_t>(width) * sizeof(T));
    from = padded;
  }
  for (int64_t i = 0; i < kTileSide; i += kLanes) {
    const auto upper = hn::ShiftRight<16>(RoundBits(LoadFloats(d, from + i)));
    hn::StoreU(hn::TruncateTo(d16, upper), d16, to + i);
  }
}

// A tile as 16 x 16 pairs of bf16, the other way round.
HWY_INLINE void TransposeTile(const uint16_t* from, uint16_t* to) {
  const float* pairs = reinterpret_cast<const float*>(from);
  float* out = reinterpret_cast<float*>(to);
  for (int64_t line = 0; line < 16; line += kLanes) {
    Transpose(pairs + line * 16, 16, 16, out + line, 16);
  }
}

// Lines of the source are rows of A or columns of B.
template <class T, bool kIsB>
void PackTileRows(const PackArgs& args) {
  constexpr int64_t kTileValues = kTileBytes / 2;
  HWY_ALIGN uint16_t tile[kTileValues];
  const int64_t steps = (args.depth + kTileSide - 1) / kTileSide;
  for (int64_t row = 0; row < args.count; row += kTileSide / 2) {
    const int64_t rows = Min(kTileSide / 2, args.count - row);
    const T* from =
        static_cast<const T*>(args.from.data) + (args.first + row) * args.from.stride + args.p;
    uint16_t* to = static_cast<uint16_t*>(args.to) +
                   (row / kTileSide * steps * 2 + row / (kTileSide / 2) % 2) * kTileValues;
    for (int64_t step = 0; step < steps; ++step, to += 2 * kTileValues) {
      uint16_t* lines = kIsB ? tile : to;
      const int64_t p = step * kTileSide;
      for (int64_t i = 0; i < rows; ++i) {
        ToBf16(from + i * args.from.stride + p, args.depth - p, lines + i * kTileSide);
      }
      memset(lines + rows * kTileSide, 0,
             static_cast<size_t>((kTileSide / 2 - rows) * kTileSide) * sizeof(uint16_t));
      if (kIsB) TransposeTile(tile, to);
    }
  }
}

// Pairs of 16 columns of two rows of the source, side by side; `second` may be absent.
HWY_INLINE void PairColumns(const float* first, const float* second, uint16_t* to) {
  const D d;
  const hn::RebindToUnsigned<D> du;
  const auto upper = hn::Set(du, 0xffff0000u);
  for (int64_t i = 0; i < kTileSide / 2; i += kLanes) {
    const auto low = hn::ShiftRight<16>(RoundBits(hn::LoadU(d, first + i)));
    const auto high =
        second == nullptr ? hn::Zero(du) : hn::And(RoundBits(hn::LoadU(d, second + i)), upper);
    hn::StoreU(hn::Or(low, high), du, reinterpret_cast<uint32_t*>(to + 2 * i));
  }
}

// The same for the `width` < 16 columns at the end of the matrix.
HWY_INLINE void PairLastColumns(const float* first, const float* second, int64_t width,
                                uint16_t* to) {
  float padded[2][kTileSide / 2] = {};
  const auto bytes = static_cast<size_t>(width) * sizeof(float);
  if (width > 0) memcpy(padded[0], first, bytes);
  if (width > 0 && second != nullptr) memcpy(padded[1], second, bytes);
  PairColumns(padded[0], padded[1], to);
}

// One step (32 of the summed axis, of which `depth` are there) of up to 16 tiles side by side, of
// which the source has `count` columns: the cache lines of a source row are read one after the
// other. to[i]: where tile i goes.
HWY_INLINE void PairStep(const float* from, int64_t stride, int64_t depth, int64_t count,
                         int64_t tiles, uint16_t* const* to) {
  constexpr int64_t kHalf = kTileSide / 2;
  for (int64_t q = 0; q < kHalf; ++q, from += 2 * stride) {
    if (2 * q >= depth) {
      for (int64_t i = 0; i < tiles; ++i) memset(to[i] + q * kTileSide, 0, 2 * kTileSide);
      continue;
    }
    const float* second = 2 * q + 1 < depth ? from + stride : nullptr;
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t width = count - i * kHalf;
      uint16_t* line = to[i] + q * kTileSide;
      if (width >= kHalf) {
        const float* other = second == nullptr ? nullptr : second + i * kHalf;
        PairColumns(from + i * kHalf, other, line);
      } else {
        const float* other = second == nullptr || width <= 0 ? nullptr : second + i * kHalf;
        PairLastColumns(width <= 0 ? nullptr : from + i * kHalf, other, width, line);
      }
    }
  }
}

// Columns of the source are rows of A or columns of B.
template <bool kIsB>
void PackTileColumns(const PackArgs& args) {
  constexpr int64_t kTileValues = kTileBytes / 2, kHalf = kTileSide / 2, kTiles = 16;
  HWY_ALIGN uint16_t buffer[kIsB ? 1 : kTiles * kTileValues];
  const int64_t steps = (args.depth + kTileSide - 1) / kTileSide;
  const int64_t halves = (args.count + kTileSide - 1) / kTileSide * 2;
  const float* source =
      static_cast<const float*>(args.from.data) + args.p * args.from.stride + args.first;
  for (int64_t group = 0; group < halves; group += kTiles) {
    const int64_t tiles = Min(kTiles, halves - group);
    for (int64_t step = 0; step < steps; ++step) {
      uint16_t* out[kTiles];
      uint16_t* to[kTiles];
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t half = group + i;
        out[i] = static_cast<uint16_t*>(args.to) +
                 ((half / 2 * steps + step) * 2 + half % 2) * kTileValues;
        to[i] = kIsB ? out[i] : buffer + i * kTileValues;
      }
      PairStep(source + step * kTileSide * args.from.stride + group * kHalf, args.from.stride,
               args.depth - step * kTileSide, args.count - group * kHalf, tiles, to);
      for (int64_t i = 0; i < tiles && !kIsB; ++i) TransposeTile(to[i], out[i]);
    }
  }
}

template <bool kIsB>
void PackTiles(const PackArgs& args) {
  if (args.from.transposed) return PackTileColumns<kIsB>(args);
  const int64_t rest = args.count % kTileSide;
  if (rest != 0 && rest <= kTileSide / 2) {  // the last panel's second half
    const int64_t steps = (args.depth + kTileSide - 1) / kTileSide;
    char* panel = static_cast<char*>(args.to) + args.count / kTileSide * steps * 2 * kTileBytes;
    for (int64_t step = 0; step < steps; ++step) {
      memset(panel + (2 * step + 1) * kTileBytes, 0, kTileBytes);
    }
  }
  if (args.from.dtype == DType::kF32) {
    PackTileRows<float, kIsB>(args);
  } else if (args.from.dtype == DType::kF16) {
    PackTileRows<F16, kIsB>(args);
  } else {
    PackTileRows<Bf16, kIsB>(args);
  }
}
