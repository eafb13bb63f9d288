#include "lib/linalg_product.h"

#include <algorithm>

#include "lib/aligned_buffer.h"
#include "lib/linalg_path.h"
#include "lib/parallel.h"

namespace pennyweight::linalg {
namespace {

// Slabs: fp32 A[kSlabRows, 384] is 3 MB, B[kSlabColumns, 384] is 6 MB, shared by all threads.
constexpr int64_t kSlabRows = 2048;
constexpr int64_t kSlabColumns = 4096;
constexpr int64_t kEnoughTiles = 32;

constexpr int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t a, int64_t b) { return DivideUp(a, b) * b; }

// The size of equal pieces of `total`, none above `most`, in multiples of `unit`.
int64_t EqualPieces(int64_t total, int64_t most, int64_t unit) {
  const int64_t limit = std::max(unit, most / unit * unit);
  return RoundUp(DivideUp(total, DivideUp(total, limit)), unit);
}

// The loop nest with its sizes; all of them follow from the shapes and the kernel's panel widths.
class Blocked {
 public:
  Blocked(const Context& context, const Product& product)
      : context_(context),
        product_(product),
        kernels_(GetProductKernels(product.precision)),
        slab_rows_(EqualPieces(product.m, kSlabRows, kernels_.mr)),
        slab_columns_(EqualPieces(product.n, kSlabColumns, kernels_.nr)),
        slab_depth_(EqualPieces(product.k, kernels_.depth, kernels_.chunk)),
        tile_rows_(std::min(slab_rows_, EqualPieces(slab_rows_, kernels_.tile_rows, kernels_.mr))),
        tile_columns_(std::min(slab_columns_, kernels_.tile_columns / kernels_.nr * kernels_.nr)),
        a_(static_cast<size_t>(slab_rows_ / kernels_.mr *
                               kernels_.PanelBytes(kernels_.mr, slab_depth_))),
        b_(static_cast<size_t>(slab_columns_ / kernels_.nr *
                               kernels_.PanelBytes(kernels_.nr, slab_depth_))) {
    // Few tiles are cut finer, for the sake of the threads; never with regard to their number.
    const auto tiles = [&] {
      return DivideUp(slab_rows_, tile_rows_) * DivideUp(slab_columns_, tile_columns_);
    };
    while (tiles() < kEnoughTiles && tile_columns_ >= 8 * kernels_.nr) {
      tile_columns_ = RoundUp(tile_columns_ / 2, kernels_.nr);
    }
    while (tiles() < kEnoughTiles && tile_rows_ >= 8 * kernels_.mr) {
      tile_rows_ = RoundUp(tile_rows_ / 2, kernels_.mr);
    }
  }

  void Run() {
    for (int64_t column = 0; column < product_.n; column += slab_columns_) {
      const int64_t columns = std::min(slab_columns_, product_.n - column);
      for (int64_t p = 0; p < product_.k; p += slab_depth_) {
        const int64_t depth = std::min(slab_depth_, product_.k - p);
        Pack(product_.b, kernels_.pack_b, kernels_.nr, column, columns, p, depth, b_.data());
        for (int64_t row = 0; row < product_.m; row += slab_rows_) {
          if (product_.upper && column + columns <= row) break;
          const int64_t rows = std::min(slab_rows_, product_.m - row);
          Pack(product_.a, kernels_.pack_a, kernels_.mr, row, rows, p, depth, a_.data());
          MultiplySlabs(row, rows, column, columns, p, depth);
        }
      }
    }
  }

 private:
  void Pack(const Operand& from, void (*pack)(const PackArgs&), int64_t width, int64_t first,
            int64_t count, int64_t p, int64_t depth, char* to) {
    // A few panels a task: packed in strips, so that whole cache lines of the source are used.
    const int64_t strip = 8 * width;
    ParallelFor(context_, DivideUp(count, strip), [&](int64_t i) {
      PackArgs args;
      args.from = from;
      args.first = first + i * strip;
      args.count = std::min(strip, count - i * strip);
      args.p = p;
      args.depth = depth;
      args.to = to + i * 8 * kernels_.PanelBytes(width, depth);
      pack(args);
    });
  }

  void MultiplySlabs(int64_t first_row, int64_t rows, int64_t first_column, int64_t columns,
                     int64_t p, int64_t depth) {
    const int64_t row_tiles = DivideUp(rows, tile_rows_);
    const int64_t count = row_tiles * DivideUp(columns, tile_columns_);
    ParallelFor(context_, count, [&](int64_t i) {
      const int64_t row = i % row_tiles * tile_rows_;
      const int64_t column = i / row_tiles * tile_columns_;
      TileArgs args;
      args.rows = std::min(tile_rows_, rows - row);
      args.cols = std::min(tile_columns_, columns - column);
      if (product_.upper) args.diagonal = first_column + column - first_row - row;
      args.depth = depth;
      args.a = a_.data() + row / kernels_.mr * kernels_.PanelBytes(kernels_.mr, depth);
      args.b = b_.data() + column / kernels_.nr * kernels_.PanelBytes(kernels_.nr, depth);
      args.a_transposed = product_.a.transposed;
      args.c = product_.c + (first_row + row) * product_.c_stride + first_column + column;
      args.c_stride = product_.c_stride;
      args.update = product_.update == Update::kStore && p > 0 ? Update::kAdd : product_.update;
      kernels_.tile(args);
    });
  }

  const Context& context_;
  const Product& product_;
  const ProductKernels kernels_;
  int64_t slab_rows_, slab_columns_, slab_depth_, tile_rows_, tile_columns_;
  AlignedBuffer<char> a_, b_;
};

}  // namespace

void Multiply(const Context& context, const Product& product) {
  if (product.m <= 0 || product.n <= 0) return;
  if (product.k > 0) {
    Blocked(context, product).Run();
  } else if (product.update == Update::kStore) {
    for (int64_t i = 0; i < product.m; ++i) {
      std::fill_n(product.c + i * product.c_stride, product.n, 0.0f);
    }
  }
}

}  // namespace pennyweight::linalg
