// The tile loop of AMX products, over a set of tile operations: the instructions themselves
// (lib/linalg_amx_tile.cc) or plain code (lib/linalg_amx.cc). Everything is a member of a template,
// so that no function compiled for one CPU can be linked for another.
//
// Tiles is a class with members
//   Zero<i>(), Load<i>(from, stride), Store<i>(to, stride): tile i of 16 lines of 64 bytes, stride
//     in bytes; Dot<c, a, b>(): C += A B in pairs of bf16; Prefetch(address).
#pragma once

#include <cstdint>
#include <cstring>

#include "lib/linalg_tile.h"

namespace pennyweight::linalg {

template <class Tiles>
class AmxProduct {
 public:
  // Sweeps over the summed axis in parts whose panel of A (32 KB) stays in L1 while those of B
  // stream from L2; C stays in L2 from one part to the next.
  static void Run(const TileArgs& args) {
    Tiles tiles;
    const int64_t steps = (args.depth + kTileSide - 1) / kTileSide;
    for (int64_t step = 0; step < steps; step += kPartSteps) {
      const int64_t part = steps - step < kPartSteps ? steps - step : kPartSteps;
      const bool add = step > 0 || args.update == Update::kAdd;
      Part(tiles, args, steps * kStepBytes, step * kStepBytes, part, add);
    }
  }

 private:
  static constexpr int64_t kPartSteps = 16;              // 512 of the summed axis
  static constexpr int64_t kStepBytes = 2 * kTileBytes;  // of a panel
  static constexpr int64_t kLine = 64;
  static constexpr int64_t kAhead = 2 * kStepBytes;  // how far B is prefetched

  static void Part(Tiles& tiles, const TileArgs& args, int64_t panel_bytes, int64_t offset,
                   int64_t steps, bool add) {
    const char* a = static_cast<const char*>(args.a) + offset;
    for (int64_t row = 0; row < args.rows; row += kTileSide, a += panel_bytes) {
      const int64_t rows = args.rows - row < kTileSide ? args.rows - row : kTileSide;
      const char* b = static_cast<const char*>(args.b) + offset;
      for (int64_t col = 0; col < args.cols; col += kTileSide, b += panel_bytes) {
        const int64_t cols = args.cols - col < kTileSide ? args.cols - col : kTileSide;
        const int64_t diagonal = args.diagonal + col - row;
        if (diagonal + cols <= 0) continue;  // below the diagonal
        float* c = args.c + row * args.c_stride + col;
        if (rows == kTileSide && cols == kTileSide && diagonal >= kTileSide - 1) {
          Block(tiles, a, b, steps, c, args.c_stride, add);
        } else {
          Edge(tiles, a, b, steps, rows, cols, diagonal, c, args.c_stride, add);
        }
      }
    }
  }

  // A block that is not wholly inside C goes through a buffer, with the same sums.
  static void Edge(Tiles& tiles, const char* a, const char* b, int64_t steps, int64_t rows,
                   int64_t cols, int64_t diagonal, float* c, int64_t c_stride, bool add) {
    alignas(64) float block[kTileSide * kTileSide];
    if (add) {
      memset(block, 0, sizeof(block));
      Copy(rows, cols, diagonal, c, c_stride, block, kTileSide);
    }
    Block(tiles, a, b, steps, block, kTileSide, add);
    Copy(rows, cols, diagonal, block, kTileSide, c, c_stride);
  }

  static void Copy(int64_t rows, int64_t cols, int64_t diagonal, const float* from,
                   int64_t from_stride, float* to, int64_t to_stride) {
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t j = i > diagonal ? i - diagonal : 0;
      if (j >= cols) continue;
      memcpy(to + i * to_stride + j, from + i * from_stride + j,
             static_cast<size_t>(cols - j) * sizeof(float));
    }
  }

  // C[32, 32] = (or +=) A B: four tiles of C, two of A, two of B.
  static void Block(Tiles& tiles, const char* a, const char* b, int64_t steps, float* c,
                    int64_t c_stride, bool add) {
    const int64_t stride = c_stride * static_cast<int64_t>(sizeof(float));
    float* lower = c + kTileSide / 2 * c_stride;
    if (add) {
      tiles.template Load<0>(c, stride);
      tiles.template Load<1>(c + kTileSide / 2, stride);
      tiles.template Load<2>(lower, stride);
      tiles.template Load<3>(lower + kTileSide / 2, stride);
    } else {
      tiles.template Zero<0>();
      tiles.template Zero<1>();
      tiles.template Zero<2>();
      tiles.template Zero<3>();
    }
    // The next block of C to the right: its loads would wait for memory. Beyond the last one this
    // is a hint that does nothing.
    for (int64_t i = 0; i < kTileSide; ++i) {
      tiles.Prefetch(c + i * c_stride + kTileSide);
      tiles.Prefetch(c + i * c_stride + kTileSide + kTileSide / 2);
    }
    for (int64_t step = 0; step < steps; ++step, a += kStepBytes, b += kStepBytes) {
      tiles.template Load<4>(a, kLine);
      tiles.template Load<6>(b, kLine);
      tiles.template Load<7>(b + kTileBytes, kLine);
      tiles.template Dot<0, 4, 6>();
      for (int64_t i = 0; i < kStepBytes; i += 2 * kLine) tiles.Prefetch(b + kAhead + i);
      tiles.template Dot<1, 4, 7>();
      tiles.template Load<5>(a + kTileBytes, kLine);
      for (int64_t i = kLine; i < kStepBytes; i += 2 * kLine) tiles.Prefetch(b + kAhead + i);
      tiles.template Dot<2, 5, 6>();
      tiles.template Dot<3, 5, 7>();
    }
    tiles.template Store<0>(c, stride);
    tiles.template Store<1>(c + kTileSide / 2, stride);
    tiles.template Store<2>(lower, stride);
    tiles.template Store<3>(lower + kTileSide / 2, stride);
  }
};

}  // namespace pennyweight::linalg
