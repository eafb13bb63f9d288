// The kernels of lib/linalg_kernels.h, compiled once per instruction set. No std templates in
// here: their instances could be compiled for one instruction set and linked for all.

#if defined(PENNYWEIGHT_LIB_LINALG_KERNELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PENNYWEIGHT_LIB_LINALG_KERNELS_INL_H_
#undef PENNYWEIGHT_LIB_LINALG_KERNELS_INL_H_
#else
#define PENNYWEIGHT_LIB_LINALG_KERNELS_INL_H_
#endif

#include <cstring>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "lib/linalg_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace pennyweight::linalg {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr int64_t kLanes = hn::MaxLanes(D());

// Accumulators: kMr x 2 vectors, with two vectors of B and a broadcast of A beside them. x86
// below AVX-512 has 16 registers; AVX-512 and NEON have 32.
#if HWY_TARGET == HWY_SSSE3 || HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_AVX2
constexpr int kMr = 6;
#else
constexpr int kMr = 14;
#endif
constexpr int64_t kNr = 2 * kLanes;

HWY_INLINE int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

// One vector of floats from kLanes elements of F32, F16 or BF16, unaligned.
HWY_INLINE V LoadFloats(D d, const float* from) { return hn::LoadU(d, from); }

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

HWY_INLINE V LoadFloats(D d, const Bf16* from) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const uint16_t*>(from));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, bits)));
}

// By a multiplication with 2^112 in place of the hardware's conversion, which SSE4 lacks and
// whose emulation in Highway 1.0.3 does not keep infinities. Subnormals come out exactly.
HWY_INLINE V LoadFloats(D d, const F16* from) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::PromoteTo(du, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(from)));
  const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(du, 0x8000u)));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(bits, hn::Set(du, 0x7fffu)));
  const V scaled = hn::Mul(hn::BitCast(d, magnitude), hn::Set(d, 0x1p112f));
  // Exponent 31: infinity or NaN, whose exponent must become all ones.
  const hn::RebindToSigned<D> di;
  const auto special =
      hn::VecFromMask(di, hn::Gt(hn::BitCast(di, magnitude), hn::Set(di, (31 << 23) - 1)));
  const auto ones = hn::And(hn::BitCast(du, special), hn::Set(du, 0x7f800000u));
  return hn::BitCast(d, hn::Or(hn::Or(hn::BitCast(du, scaled), ones), sign));
}

// `count` elements to floats; the tail goes through a padded buffer.
template <class T>
HWY_INLINE void Decode(const T* from, int64_t count, float* HWY_RESTRICT to) {
  const D d;
  int64_t p = 0;
  for (; p + kLanes <= count; p += kLanes) hn::StoreU(LoadFloats(d, from + p), d, to + p);
  if (p == count) return;
  T in[kLanes] = {};
  float out[kLanes];
  memcpy(in, from + p, static_cast<size_t>(count - p) * sizeof(T));
  hn::StoreU(LoadFloats(d, in), d, out);
  memcpy(to + p, out, static_cast<size_t>(count - p) * sizeof(float));
}

// Four floats of each of the rows r, r + 4, r + 8, ...: one per 128-bit block of the vector.
template <class Tag>
HWY_INLINE hn::Vec<Tag> LoadBlocks(Tag d, const float* from, int64_t stride) {
  constexpr int64_t kN = hn::MaxLanes(Tag());
  if constexpr (kN == 4) {
    return hn::LoadU(d, from);
  } else {
    const hn::Half<Tag> half;
    return hn::Combine(d, LoadBlocks(half, from + kN / 2 * stride, stride),
                       LoadBlocks(half, from, stride));
  }
}

// to[p * to_stride + r] = from[r * from_stride + p] for kLanes rows r and p < count, rounded up
// to a multiple of 4.
HWY_INLINE void Transpose(const float* from, int64_t from_stride, int64_t count,
                          float* HWY_RESTRICT to, int64_t to_stride) {
  const D d;
  for (int64_t p = 0; p < count; p += 4, from += 4, to += 4 * to_stride) {
    const V v0 = LoadBlocks(d, from, from_stride);
    const V v1 = LoadBlocks(d, from + from_stride, from_stride);
    const V v2 = LoadBlocks(d, from + 2 * from_stride, from_stride);
    const V v3 = LoadBlocks(d, from + 3 * from_stride, from_stride);
    const V low02 = hn::InterleaveLower(d, v0, v2);
    const V low13 = hn::InterleaveLower(d, v1, v3);
    const V high02 = hn::InterleaveUpper(d, v0, v2);
    const V high13 = hn::InterleaveUpper(d, v1, v3);
    hn::StoreU(hn::InterleaveLower(d, low02, low13), d, to);
    hn::StoreU(hn::InterleaveUpper(d, low02, low13), d, to + to_stride);
    hn::StoreU(hn::InterleaveLower(d, high02, high13), d, to + 2 * to_stride);
    hn::StoreU(hn::InterleaveUpper(d, high02, high13), d, to + 3 * to_stride);
  }
}

#include "lib/linalg_pack_tiles-inl.h"

// Floats of one packed panel of kMr rows or kNr columns.
HWY_INLINE int64_t PanelFloats(int64_t width, int64_t depth) {
  return (depth + kChunk - 1) / kChunk * kChunk * width;
}

// Packing of a transposed operand into panels [depth][kWidth]: rows of the source are copied.
// A few panels at a time, so that whole cache lines of the source are used while they are near.
template <int64_t kWidth>
void PackTransposed(const PackArgs& args) {
  constexpr int64_t kGroup = 8 * kWidth;
  const int64_t panel_floats = PanelFloats(kWidth, args.depth);
  for (int64_t group = 0; group < args.count; group += kGroup) {
    const int64_t columns = Min(kGroup, args.count - group);
    const float* from =
        static_cast<const float*>(args.from.data) + args.p * args.from.stride + args.first + group;
    float* to = static_cast<float*>(args.to) + group / kWidth * panel_floats;
    for (int64_t p = 0; p < args.depth; ++p, from += args.from.stride) {
      float* row = to + p * kWidth;
      int64_t j = 0;
      for (; j + kWidth <= columns; j += kWidth, row += panel_floats) {
        memcpy(row, from + j, kWidth * sizeof(float));
      }
      for (int64_t i = 0; j < columns && i < kWidth; ++i) {
        row[i] = j + i < columns ? from[j + i] : 0.0f;
      }
    }
  }
}

// Packing of row-major A: chunks [kMr][kChunk].
void PackARows(const PackArgs& args) {
  const int64_t panel_floats = PanelFloats(kMr, args.depth);
  float* panel = static_cast<float*>(args.to);
  for (int64_t row = 0; row < args.count; row += kMr, panel += panel_floats) {
    const float* from =
        static_cast<const float*>(args.from.data) + (args.first + row) * args.from.stride + args.p;
    float* to = panel;
    for (int64_t p = 0; p < args.depth; p += kChunk) {
      const int64_t width = Min(kChunk, args.depth - p);
      for (int64_t i = 0; i < kMr; ++i, to += kChunk) {
        if (row + i >= args.count) {
          memset(to, 0, kChunk * sizeof(float));
        } else if (width == kChunk) {
          memcpy(to, from + i * args.from.stride + p, kChunk * sizeof(float));
        } else {
          memcpy(to, from + i * args.from.stride + p, static_cast<size_t>(width) * sizeof(float));
        }
      }
    }
  }
}

void PackA(const PackArgs& args) {
  args.from.transposed ? PackTransposed<kMr>(args) : PackARows(args);
}

// Packing of row-major B: rows are converted into a piece that stays in L1 and transposed there.
template <class T>
void PackBRows(const PackArgs& args) {
  constexpr int64_t kPiece = 64;
  HWY_ALIGN float piece[kNr * kPiece];
  const int64_t panel_floats = PanelFloats(kNr, args.depth);
  float* panel = static_cast<float*>(args.to);
  for (int64_t row = 0; row < args.count; row += kNr, panel += panel_floats) {
    const int64_t rows = Min(kNr, args.count - row);
    const T* from =
        static_cast<const T*>(args.from.data) + (args.first + row) * args.from.stride + args.p;
    memset(piece + rows * kPiece, 0, static_cast<size_t>((kNr - rows) * kPiece) * sizeof(float));
    for (int64_t p = 0; p < args.depth; p += kPiece) {
      const int64_t width = Min(kPiece, args.depth - p);
      for (int64_t i = 0; i < rows; ++i) {
        Decode(from + i * args.from.stride + p, width, piece + i * kPiece);
        for (int64_t q = width; q % 4 != 0; ++q) piece[i * kPiece + q] = 0.0f;
      }
      Transpose(piece, kPiece, width, panel + p * kNr, kNr);
      Transpose(piece + kLanes * kPiece, kPiece, width, panel + p * kNr + kLanes, kNr);
    }
  }
}

void PackB(const PackArgs& args) {
  if (args.from.transposed) {
    PackTransposed<kNr>(args);
  } else if (args.from.dtype == DType::kF32) {
    PackBRows<float>(args);
  } else if (args.from.dtype == DType::kF16) {
    PackBRows<F16>(args);
  } else {
    PackBRows<Bf16>(args);
  }
}

// Panels of either operand, rounded to bf16 where they lie.
void PackARounded(const PackArgs& args) {
  PackA(args);
  const int64_t panels = (args.count + kMr - 1) / kMr;
  RoundInPlace(static_cast<float*>(args.to), panels * PanelFloats(kMr, args.depth));
}

void PackBRounded(const PackArgs& args) {
  PackB(args);
  const int64_t panels = (args.count + kNr - 1) / kNr;
  RoundInPlace(static_cast<float*>(args.to), panels * PanelFloats(kNr, args.depth));
}

template <Update kUpdate>
HWY_INLINE void Merge(V sum, float* c) {
  const D d;
  if constexpr (kUpdate == Update::kAdd) sum = hn::Add(hn::LoadU(d, c), sum);
  if constexpr (kUpdate == Update::kSubtract) sum = hn::Sub(hn::LoadU(d, c), sum);
  hn::StoreU(sum, d, c);
}

// C[kMr, kNr] of one panel of A and one of B.
template <bool kTransposed, Update kUpdate>
HWY_INLINE void Panels(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, int64_t depth,
                       float* HWY_RESTRICT c, int64_t c_stride) {
  constexpr int64_t kRowStep = kTransposed ? 1 : kChunk;
  constexpr int64_t kStep = kTransposed ? kMr : 1;
  const D d;
  V sums0[kMr], sums1[kMr];
  HWY_UNROLL(14)
  for (int i = 0; i < kMr; ++i) sums0[i] = sums1[i] = hn::Zero(d);
  for (; depth > 0; depth -= kChunk, a += kMr * kChunk) {
    const float* HWY_RESTRICT chunk = a;
    const float* const end = b + Min(depth, kChunk) * kNr;
    HWY_UNROLL(2)
    for (; b != end; b += kNr, chunk += kStep) {
      const V b0 = hn::Load(d, b);
      const V b1 = hn::Load(d, b + kLanes);
      HWY_UNROLL(14)
      for (int i = 0; i < kMr; ++i) {
        const V value = hn::Set(d, chunk[i * kRowStep]);
        sums0[i] = hn::MulAdd(value, b0, sums0[i]);
        sums1[i] = hn::MulAdd(value, b1, sums1[i]);
      }
    }
  }
  HWY_UNROLL(14)
  for (int i = 0; i < kMr; ++i) {
    Merge<kUpdate>(sums0[i], c + i * c_stride);
    Merge<kUpdate>(sums1[i], c + i * c_stride + kLanes);
  }
}

// The part of a kMr x kNr block that lies inside C and on or above the diagonal.
template <Update kUpdate>
void MergeEdge(const float* sums, int64_t rows, int64_t cols, int64_t diagonal, float* c,
               int64_t c_stride) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = i > diagonal ? i - diagonal : 0; j < cols; ++j) {
      float& to = c[i * c_stride + j];
      const float sum = sums[i * kNr + j];
      to = kUpdate == Update::kAdd ? to + sum : kUpdate == Update::kSubtract ? to - sum : sum;
    }
  }
}

// Brings a block of C near while its sums are computed.
HWY_INLINE void PrefetchBlock(const float* c, int64_t c_stride, int64_t rows) {
  for (int64_t i = 0; i < rows; ++i) {
    hwy::Prefetch(c + i * c_stride);
    hwy::Prefetch(c + i * c_stride + kLanes);
  }
}

// The panel of A stays in L1 and those of B stream from L2: measured a tenth faster than the
// other way round, as a panel of B is larger than its share of L1.
template <bool kTransposed, Update kUpdate>
void Tile(const TileArgs& args) {
  HWY_ALIGN float edge[kMr * kNr];
  const int64_t a_floats = PanelFloats(kMr, args.depth);
  const int64_t b_floats = PanelFloats(kNr, args.depth);
  const float* a = static_cast<const float*>(args.a);
  for (int64_t row = 0; row < args.rows; row += kMr, a += a_floats) {
    const int64_t rows = Min(kMr, args.rows - row);
    const float* b = static_cast<const float*>(args.b);
    for (int64_t col = 0; col < args.cols; col += kNr, b += b_floats) {
      const int64_t cols = Min(kNr, args.cols - col);
      const int64_t diagonal = args.diagonal + col - row;
      if (diagonal + cols <= 0) continue;  // below the diagonal
      float* c = args.c + row * args.c_stride + col;
      if (rows == kMr && cols == kNr && diagonal >= kMr - 1) {
        PrefetchBlock(c, args.c_stride, kMr);
        Panels<kTransposed, kUpdate>(a, b, args.depth, c, args.c_stride);
      } else {
        Panels<kTransposed, Update::kStore>(a, b, args.depth, edge, kNr);
        MergeEdge<kUpdate>(edge, rows, cols, diagonal, c, args.c_stride);
      }
    }
  }
}

template <bool kTransposed>
void TileUpdate(const TileArgs& args) {
  switch (args.update) {
    case Update::kStore:
      return Tile<kTransposed, Update::kStore>(args);
    case Update::kAdd:
      return Tile<kTransposed, Update::kAdd>(args);
    case Update::kSubtract:
      return Tile<kTransposed, Update::kSubtract>(args);
  }
}

void MultiplyTile(const TileArgs& args) {
  args.a_transposed ? TileUpdate<true>(args) : TileUpdate<false>(args);
}

// kRows dot products with one row of B, which is read (and converted) once.
template <int kRows, class T>
HWY_INLINE void DotRow(const DotArgs& args, const T* b, float* c) {
  const D d;
  V even[kRows], odd[kRows];
  HWY_UNROLL(4)
  for (int i = 0; i < kRows; ++i) even[i] = odd[i] = hn::Zero(d);
  int64_t p = 0;
  for (; p + 2 * kLanes <= args.k; p += 2 * kLanes) {
    const V b0 = LoadFloats(d, b + p);
    const V b1 = LoadFloats(d, b + p + kLanes);
    HWY_UNROLL(4)
    for (int i = 0; i < kRows; ++i) {
      const float* a = args.a + i * args.a_stride + p;
      even[i] = hn::MulAdd(hn::LoadU(d, a), b0, even[i]);
      odd[i] = hn::MulAdd(hn::LoadU(d, a + kLanes), b1, odd[i]);
    }
  }
  const int64_t left = args.k - p;
  float tail[2 * kLanes];
  Decode(b + p, left, tail);
  for (int i = 0; i < kRows; ++i) {
    const float* a = args.a + i * args.a_stride + p;
    float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(even[i], odd[i])));
    for (int64_t q = 0; q < left; ++q) sum += a[q] * tail[q];
    float& to = c[i * args.c_stride];
    to = args.accumulate ? to + sum : sum;
  }
}

template <class T>
void DotRows(const DotArgs& args) {
  const T* b = static_cast<const T*>(args.b.data) + args.first * args.b.stride;
  for (int64_t j = 0; j < args.n; ++j, b += args.b.stride) {
    float* c = args.c + j;
    switch (args.m) {
      case 1:
        DotRow<1>(args, b, c);
        break;
      case 2:
        DotRow<2>(args, b, c);
        break;
      case 3:
        DotRow<3>(args, b, c);
        break;
      default:
        DotRow<4>(args, b, c);
        break;
    }
  }
}

void Dot(const DotArgs& args) {
  if (args.b.dtype == DType::kF32) {
    DotRows<float>(args);
  } else if (args.b.dtype == DType::kF16) {
    DotRows<F16>(args);
  } else {
    DotRows<Bf16>(args);
  }
}

// Substitution, four vectors of right-hand sides at once: x[n][kLeaf] holds them as columns.
// Back: x_j = (x_j - sum over l > j of x_l R[j, l]) / R[j, j].
// Forward: x_j = (x_j - sum over l < j of x_l R[l, j]) / R[j, j].
template <bool kForward>
void SolveColumns(const SolveArgs& args, float* x) {
  const D d;
  constexpr int64_t kWidth = 4 * kLanes;
  for (int64_t column = 0; column < args.rows; column += kWidth) {
    for (int64_t step = 0; step < args.n; ++step) {
      const int64_t j = kForward ? step : args.n - 1 - step;
      const float* r = kForward ? args.r + j : args.r + j * args.r_stride;
      const int64_t r_step = kForward ? args.r_stride : 1;
      float* at = x + j * kLeaf + column;
      V x0 = hn::Load(d, at), x1 = hn::Load(d, at + kLanes);
      V x2 = hn::Load(d, at + 2 * kLanes), x3 = hn::Load(d, at + 3 * kLanes);
      for (int64_t l = kForward ? 0 : j + 1; l < (kForward ? j : args.n); ++l) {
        const float* other = x + l * kLeaf + column;
        const V value = hn::Set(d, r[l * r_step]);
        x0 = hn::NegMulAdd(value, hn::Load(d, other), x0);
        x1 = hn::NegMulAdd(value, hn::Load(d, other + kLanes), x1);
        x2 = hn::NegMulAdd(value, hn::Load(d, other + 2 * kLanes), x2);
        x3 = hn::NegMulAdd(value, hn::Load(d, other + 3 * kLanes), x3);
      }
      const V pivot = hn::Set(d, r[j * r_step]);
      hn::Store(hn::Div(x0, pivot), d, at);
      hn::Store(hn::Div(x1, pivot), d, at + kLanes);
      hn::Store(hn::Div(x2, pivot), d, at + 2 * kLanes);
      hn::Store(hn::Div(x3, pivot), d, at + 3 * kLanes);
    }
  }
}

template <bool kForward>
void Solve(const SolveArgs& args) {
  HWY_ALIGN float columns[kLeaf * kLeaf];
  if (args.rows == kLeaf && args.n == kLeaf) {
    for (int64_t row = 0; row < kLeaf; row += kLanes) {
      Transpose(args.x + row * args.x_stride, args.x_stride, kLeaf, columns + row, kLeaf);
    }
    SolveColumns<kForward>(args, columns);
    for (int64_t j = 0; j < kLeaf; j += kLanes) {
      Transpose(columns + j * kLeaf, kLeaf, kLeaf, args.x + j, args.x_stride);
    }
    return;
  }
  for (int64_t j = 0; j < args.n; ++j) {
    for (int64_t row = 0; row < kLeaf; ++row) {
      columns[j * kLeaf + row] = row < args.rows ? args.x[row * args.x_stride + j] : 0.0f;
    }
  }
  SolveColumns<kForward>(args, columns);
  for (int64_t row = 0; row < args.rows; ++row) {
    for (int64_t j = 0; j < args.n; ++j) args.x[row * args.x_stride + j] = columns[j * kLeaf + row];
  }
}

// A slab is 384 deep: a panel of A then stays in L1. B of a task is 400 KB.
constexpr ProductKernels kFull = {
    .mr = kMr,
    .nr = kNr,
    .depth = 384,
    .chunk = kChunk,
    .element_bytes = sizeof(float),
    .tile_rows = 224,
    .tile_columns = 256,
    .pack_a = &PackA,
    .pack_b = &PackB,
    .tile = &MultiplyTile,
};

constexpr ProductKernels Rounded() {
  ProductKernels rounded = kFull;
  rounded.pack_a = &PackARounded;
  rounded.pack_b = &PackBRounded;
  return rounded;
}

const Kernels* TargetKernels() {
  static const Kernels kKernels = {
      .target = hwy::TargetName(HWY_TARGET),
      .full = kFull,
      .rounded = Rounded(),
      .pack_tiles_a = &PackTiles<false>,
      .pack_tiles_b = &PackTiles<true>,
      .dot = &Dot,
      .solve_transposed = &Solve<false>,
      .solve = &Solve<true>,
  };
  return &kKernels;
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace pennyweight::linalg
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
