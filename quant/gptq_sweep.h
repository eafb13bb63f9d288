// Sweeps over the rows that gptq has coded. GPTQ chooses scales and codes for good once it comes to
// them; a sweep comes back to each with all others known. With e = w - q and g = e H, some columns
// S of a row, the others fixed, cost
//   (t - q) H[S,S] (t - q)^T + const,   t = q_old + g[S] H[S,S]^-1,
// so a block, a sub-block or a single column is coded again for the targets t under the factor of
// H[S,S], and what costs more than before is not taken: no sweep raises the error of a row. For
// single columns this is the coordinate descent ("greedy updates") of QuIP (Chee et al. 2023, arXiv
// 2307.13304, algorithm 4).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "lib/context.h"
#include "lib/factor_view.h"
#include "lib/result.h"
#include "quant/gptq_block.h"
#include "quant/gptq_order.h"
#include "quant/grid.h"

namespace pennyweight {

// What all rows share.
class SweepPlan {
 public:
  // r[k, k] as coded, places[k] as in CodedColumns; both must outlive this. Errors: those of r.
  static Result<SweepPlan> Make(const Context& context, const FactorView& r,
                                std::span<const int32_t> places, const BlockGrid& grid);

  // Columns coded again together.
  struct Region {
    int64_t begin, n;  // from the panel's first column
    std::vector<float> r, inverse, importance;
    CodedColumns Columns(const int32_t* at) const {
      return {r.data(), n, inverse.data(), importance.data(), at};
    }
  };
  // Columns [begin, end), whole blocks or a part of one, that learn of each other's moves at once.
  struct Panel {
    int64_t begin, end;
    std::vector<float> h;  // [end - begin, end - begin]: this diagonal block of H
    // The sub-blocks, or blocks of types with one level; none of a block longer than a panel.
    std::vector<Region> regions;
  };
  const std::vector<Panel>& panels() const { return panels_; }
  const FactorView& r() const { return r_; }
  int64_t k() const { return static_cast<int64_t>(places_.size()); }
  const int32_t* places() const { return places_.data(); }
  int64_t most_columns() const { return most_columns_; }  // of a panel

 private:
  SweepPlan(const FactorView& r, std::span<const int32_t> places) : r_(r), places_(places) {}
  void AddRegions(const Context& context, int64_t width, Panel* panel);

  FactorView r_;
  std::span<const int32_t> places_;
  std::vector<Panel> panels_;
  int64_t most_columns_ = 0;
};

// One group of kLanes rows of a task, as the sweeps change it.
struct SweepGroup {
  std::span<const std::unique_ptr<BlockGrid>> blocks;  // codes and scales, in the order of coding
  float* values;                                       // [k][kLanes]
  int64_t rows;                                        // at most kLanes
};

// Sweeps over a group: its buffers.
class GptqSweep {
 public:
  GptqSweep(const Encoding& encoding, const SweepPlan& plan, Effort effort);

  // Improves columns of one panel in place, for slopes[rows, n] = g. moves[rows, n]: values after -
  // values before, where it returns true; else nothing has moved, and they are not written.
  bool Move(const SweepPlan::Panel& panel, const SweepGroup& group, const float* slopes,
            float* moves);

 private:
  using Panel = SweepPlan::Panel;
  using Region = SweepPlan::Region;

  bool MoveGroup(const Panel& panel, const SweepGroup& group);
  void Solve(const Region& region, const float* q, float* t, double* loss);
  void Recode(const Panel& panel, const Region& region, const SweepGroup& group);
  void Accept(const Panel& panel, const Region& region, const LaneMask& lanes, const float* values,
              const SweepGroup& group);
  bool MoveColumns(const Panel& panel, const SweepGroup& group);
  BlockGrid* GridOf(const Panel& panel, const SweepGroup& group, int64_t c) const;

  const SweepPlan& plan_;
  BlockCoder coder_;
  std::unique_ptr<BlockGrid> trial_;
  Attempt attempt_;
  LaneArray<float> g_, before_, targets_, zeros_, sums_;
};

// Calls move(group, panel, slopes, moves), as GptqSweep::Move, for every group of kLanes rows and
// every panel, `sweeps` times or until nothing moves. u[rows, k]: e R of each row, kept up to date.
// Errors: kInterrupted, those of the plan's factor.
using MoveGroup = std::function<bool(int64_t group, const SweepPlan::Panel& panel,
                                     const float* slopes, float* moves)>;
Status RunSweeps(const Context& context, const SweepPlan& plan, int64_t rows, int sweeps, float* u,
                 const MoveGroup& move);

}  // namespace pennyweight
