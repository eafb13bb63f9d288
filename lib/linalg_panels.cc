#include "lib/linalg_panels.h"

#include <algorithm>

#include "lib/linalg.h"
#include "lib/linalg_kernels.h"
#include "lib/parallel.h"

namespace pennyweight {
namespace linalg {
namespace {

// A matrix that is in memory as a whole.
class WholeMatrix : public Panels {
 public:
  WholeMatrix(int64_t size, int64_t panel, Block block) : Panels(size, panel), block_(block) {}
  Result<Block> Load(int64_t i, int64_t j, int) override {
    return block_.At(i * panel(), j * panel());
  }
  Status Store(int64_t, int64_t, int) override { return OkStatus(); }

 private:
  Block block_;
};

// Slots by what they hold: the panel that is computed, the two factors of a product, the diagonal.
enum Slot { kTarget, kLeft, kRight, kDiagonal };

// What the columns of panels to the right, which are finished, take from panel (i, j).
Status SubtractFinished(const Context& context, Panels& h, int64_t i, int64_t j, Block target) {
  for (int64_t l = h.count() - 1; l > j; --l) {
    PW_ASSIGN(const Block left, h.Load(i, l, kLeft));
    Block right = left;
    if (i != j) {
      PW_ASSIGN(right, h.Load(j, l, kRight));
    }
    SubtractBlock(context, h.Side(i), h.Side(j), h.Side(l), left, right, target, i == j);
  }
  return OkStatus();
}

void SubtractProduct(const Context& context, int64_t m, int64_t n, int64_t k, Block a, Block b,
                     Block c) {
  GemmNnArgs args;
  args.m = m;
  args.n = n;
  args.k = k;
  args.a = a.data;
  args.a_stride = a.stride;
  args.b = b.data;
  args.b_stride = b.stride;
  args.c = c.data;
  args.c_stride = c.stride;
  args.subtract = true;
  GemmNn(context, args);
}

}  // namespace

Result<bool> FactorPanels(const Context& context, Panels& h) {
  for (int64_t j = h.count() - 1; j >= 0; --j) {
    PW_ASSIGN(const Block diagonal, h.Load(j, j, kDiagonal));
    PW_TRY(SubtractFinished(context, h, j, j, diagonal));
    if (!FactorBlock(context, h.Side(j), diagonal)) return false;
    PW_TRY(h.Store(j, j, kDiagonal));
    for (int64_t i = j - 1; i >= 0; --i) {
      PW_ASSIGN(const Block target, h.Load(i, j, kTarget));
      PW_TRY(SubtractFinished(context, h, i, j, target));
      SolveTransposedBlock(context, h.Side(i), h.Side(j), target, diagonal);
      PW_TRY(h.Store(i, j, kTarget));
    }
  }
  return true;
}

Status SolvePanels(const Context& context, Panels& r, int64_t rows, Block b) {
  const int64_t count = r.count(), panel = r.panel();
  for (int64_t j = count - 1; j >= 0; --j) {
    const Block target = b.At(0, j * panel);
    for (int64_t l = count - 1; l > j; --l) {
      PW_ASSIGN(const Block right, r.Load(j, l, kRight));
      SubtractBlock(context, rows, r.Side(j), r.Side(l), b.At(0, l * panel), right, target, false);
    }
    PW_ASSIGN(const Block diagonal, r.Load(j, j, kDiagonal));
    SolveTransposedBlock(context, rows, r.Side(j), target, diagonal);
  }
  for (int64_t j = 0; j < count; ++j) {
    const Block target = b.At(0, j * panel);
    for (int64_t l = 0; l < j; ++l) {
      PW_ASSIGN(const Block right, r.Load(l, j, kRight));
      SubtractProduct(context, rows, r.Side(j), r.Side(l), b.At(0, l * panel), right, target);
    }
    PW_ASSIGN(const Block diagonal, r.Load(j, j, kDiagonal));
    SolveBlock(context, rows, r.Side(j), target, diagonal);
  }
  return OkStatus();
}

bool FactorUpperInPanels(const Context& context, int64_t k, float* h, int64_t h_stride,
                         int64_t panel) {
  WholeMatrix matrix(k, panel, {h, h_stride});
  const Result<bool> factored = FactorPanels(context, matrix);
  if (!factored.ok() || !*factored) return false;  // in memory there are no other errors
  ParallelFor(context, (k + kLeaf - 1) / kLeaf, [&](int64_t block) {
    for (int64_t i = block * kLeaf; i < std::min(k, (block + 1) * kLeaf); ++i) {
      std::fill_n(h + i * h_stride, i, 0.0f);
    }
  });
  return true;
}

void SolveUpperInPanels(const Context& context, int64_t rows, int64_t k, const float* r, float* b,
                        int64_t panel) {
  WholeMatrix factor(k, panel, {const_cast<float*>(r), k});  // it is only read
  (void)SolvePanels(context, factor, rows, {b, k}).ok();     // in memory there are no errors
}

}  // namespace linalg

bool FactorUpper(const Context& context, int64_t k, float* h, int64_t h_stride) {
  return linalg::FactorUpperInPanels(context, k, h, h_stride, linalg::kPanel);
}

void SolveUpper(const Context& context, int64_t rows, int64_t k, const float* r, float* b) {
  linalg::SolveUpperInPanels(context, rows, k, r, b, linalg::kPanel);
}

}  // namespace pennyweight
