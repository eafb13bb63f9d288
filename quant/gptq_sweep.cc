#include "quant/gptq_sweep.h"

#include <algorithm>
#include <cstddef>

#include "lib/checked.h"
#include "lib/linalg.h"
#include "lib/parallel.h"

namespace pennyweight {
namespace {

// Rounds over the single columns of a panel before its moves are told to the others.
constexpr int kRounds = 4;
// What counts as an improvement beside rounding errors.
constexpr double kLower = 1 - 1e-5;

}  // namespace

Result<SweepPlan> SweepPlan::Make(const Context& context, const FactorView& r,
                                  std::span<const int32_t> places, const BlockGrid& grid) {
  SweepPlan plan(r, places);
  const int64_t width = GptqPanel(grid), k = r.k();
  std::vector<float> buffer;
  for (int64_t c = 0; c < k; c += width) {
    Panel& panel = plan.panels_.emplace_back(Panel{c, std::min(k, c + width), {}, {}});
    const int64_t n = panel.end - panel.begin;
    PW_ASSIGN(const FactorView::Strip strip, r.Read(context, c, n, c, k - c, &buffer));
    plan.most_columns_ = std::max(plan.most_columns_, n);
    panel.h.resize(static_cast<size_t>(n * n));
    GemmArgs args;
    args.m = n;
    args.n = n;
    args.k = k - c;
    args.a = strip.data;
    args.b = strip.data;
    args.a_stride = args.b_stride = strip.stride;
    args.c = panel.h.data();
    args.c_stride = n;
    Gemm(context, args);
    if (grid.block() <= kGptqPanel) plan.AddRegions(context, grid.sub_block(), &panel);
  }
  return plan;
}

void SweepPlan::AddRegions(const Context& context, int64_t width, Panel* panel) {
  const int64_t n = panel->end - panel->begin;
  for (int64_t begin = 0; begin < n; begin += width) {
    Region region{begin, width, {}, {}, {}};
    for (int64_t i = begin; i < begin + width; ++i) {
      const float* row = panel->h.data() + i * n + begin;
      region.r.insert(region.r.end(), row, row + width);
    }
    // A part of a positive definite matrix is one too; where rounding has lost that, the region is
    // left as it was coded first.
    if (!FactorUpper(context, width, region.r.data(), width)) continue;
    std::vector<float> diagonal;
    for (int64_t j = 0; j < width; ++j) {
      diagonal.push_back(region.r[static_cast<size_t>(j * width + j)]);
      region.inverse.push_back(1.0f / diagonal.back());
    }
    std::vector<int32_t> places;
    const int32_t* at = places_.data() + panel->begin + begin;
    const int32_t first = *std::min_element(at, at + width);
    for (int64_t j = 0; j < width; ++j) places.push_back(at[j] - first);
    region.importance = ScaleImportance(diagonal, places, width);
    panel->regions.push_back(std::move(region));
  }
}

GptqSweep::GptqSweep(const Encoding& encoding, const SweepPlan& plan, Effort effort)
    : plan_(plan),
      coder_(encoding, plan.k(), effort),
      trial_(MakeGrid(encoding, plan.k(), effort)) {
  for (LaneArray<float>* a :
       {&g_, &before_, &targets_, &zeros_, &sums_, &attempt_.targets, &attempt_.values}) {
    *a = LaneArray<float>(plan.most_columns() * kLanes);
  }
}

bool GptqSweep::Move(const Panel& panel, const SweepGroup& group, const float* slopes,
                     float* moves) {
  const int64_t n = panel.end - panel.begin;
  LoadLanes(slopes, n, group.rows, n, g_.data());
  const float* values = group.values + panel.begin * kLanes;
  std::copy_n(values, n * kLanes, before_.data());
  if (!MoveGroup(panel, group)) return false;
  for (int64_t j = 0; j < n * kLanes; ++j) before_[j] = values[j] - before_[j];
  StoreLanes(before_.data(), group.rows, n, moves, n);
  return true;
}

BlockGrid* GptqSweep::GridOf(const Panel& panel, const SweepGroup& group, int64_t c) const {
  return group.blocks[static_cast<size_t>((panel.begin + c) / coder_.width())].get();
}

bool GptqSweep::MoveGroup(const Panel& panel, const SweepGroup& group) {
  const int64_t n = panel.end - panel.begin;
  for (const Region& region : panel.regions) Recode(panel, region, group);
  if (coder_.unit() == 1) {
    for (int round = 0; round < kRounds && MoveColumns(panel, group); ++round) {
    }
  }
  const float* values = group.values + panel.begin * kLanes;
  return !std::equal(values, values + n * kLanes, before_.data());
}

// t = q + g (R R^T)^-1, and what q costs: |(t - q) R|^2.
void GptqSweep::Solve(const Region& region, const float* q, float* t, double* loss) {
  const int64_t n = region.n;
  const float* g = g_.data() + region.begin * kLanes;
  std::fill_n(loss, kLanes, 0.0);
  // z R^T = g from the last column on, in t; then (t - q) R = z.
  float column[kGptqPanel];
  std::copy_n(g, n * kLanes, t);
  for (int64_t j = n - 1; j >= 0; --j) {
    float* z = t + j * kLanes;
    for (int64_t l = 0; l < kLanes; ++l) {
      z[l] *= region.inverse[static_cast<size_t>(j)];
      loss[l] += static_cast<double>(z[l]) * z[l];
    }
    alignas(kLaneAlign) float minus[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) minus[l] = -z[l];
    for (int64_t i = 0; i < j; ++i) column[i] = region.r[static_cast<size_t>(i * n + j)];
    AddOuter(minus, column, j, t);
  }
  for (int64_t j = 0; j < n; ++j) {
    float* z = t + j * kLanes;
    alignas(kLaneAlign) float minus[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) {
      z[l] *= region.inverse[static_cast<size_t>(j)];
      minus[l] = -z[l];
    }
    AddOuter(minus, region.r.data() + j * n + j + 1, n - j - 1, z + kLanes);
  }
  for (int64_t i = 0; i < n * kLanes; ++i) t[i] += q[i];
}

void GptqSweep::Recode(const Panel& panel, const Region& region, const SweepGroup& group) {
  const float* q = group.values + (panel.begin + region.begin) * kLanes;
  const int32_t* places = plan_.places() + panel.begin + region.begin;
  double before[kLanes];
  Solve(region, q, targets_.data(), before);
  const CodedColumns columns = region.Columns(places);
  BlockGrid* grid = GridOf(panel, group, region.begin);
  std::array<double, kLanes> after;
  LaneMask better;
  if (region.n < coder_.width()) {
    better.fill(true);
    trial_->TakeLanes(*grid, better);
    const float* stored = coder_.Stored(targets_.data(), places, region.n);
    trial_->BeginSubBlock(places[0] / region.n, stored, columns.importance);
    std::copy_n(zeros_.data(), region.n * kLanes, sums_.data());
    coder_.Code(trial_.get(), columns, 0, region.n, targets_.data(), sums_.data(), false,
                &attempt_);
    after = attempt_.loss;
  } else {
    after = coder_.FitAndCode(columns, targets_.data(), zeros_.data(), trial_.get(),
                              attempt_.values.data());
  }
  for (size_t l = 0; l < kLanes; ++l) better[l] = after[l] < before[l] * kLower;
  grid->TakeLanes(*trial_, better);
  Accept(panel, region, better, attempt_.values.data(), group);
}

// The lanes' new values: the slopes of the panel follow.
void GptqSweep::Accept(const Panel& panel, const Region& region, const LaneMask& lanes,
                       const float* values, const SweepGroup& group) {
  if (std::none_of(lanes.begin(), lanes.end(), [](bool b) { return b; })) return;
  const int64_t n = panel.end - panel.begin;
  float* q = group.values + (panel.begin + region.begin) * kLanes;
  for (int64_t j = 0; j < region.n; ++j) {
    alignas(kLaneAlign) float minus[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) {
      const int64_t at = j * kLanes + l;
      minus[l] = lanes[static_cast<size_t>(l)] ? q[at] - values[at] : 0.0f;
      q[at] = lanes[static_cast<size_t>(l)] ? values[at] : q[at];
    }
    AddOuter(minus, panel.h.data() + (region.begin + j) * n, n, g_.data());
  }
}

bool GptqSweep::MoveColumns(const Panel& panel, const SweepGroup& group) {
  const int64_t n = panel.end - panel.begin;
  bool moved = false;
  for (int64_t j = 0; j < n; ++j) {
    const float* h = panel.h.data() + j * n;
    const float inverse = 1.0f / h[j];
    float* q = group.values + (panel.begin + j) * kLanes;
    const float* g = g_.data() + j * kLanes;
    alignas(kLaneAlign) float t[kLanes], next[kLanes], minus[kLanes];
    for (int64_t l = 0; l < kLanes; ++l) t[l] = q[l] + g[l] * inverse;
    BlockGrid* grid = GridOf(panel, group, j);
    const int64_t place = plan_.places()[panel.begin + j];
    grid->Round(place, t, nullptr, 0, next);
    bool any = false, back = false;
    for (int64_t l = 0; l < kLanes; ++l) {
      const float d = next[l] - q[l];
      const bool better = d * (2 * g[l] - d * h[j]) > 0;
      back |= d != 0 && !better;
      any |= better;
      minus[l] = better ? -d : 0.0f;
      q[l] = better ? next[l] : q[l];
    }
    if (back) grid->Round(place, q, nullptr, 0, next);  // a value rounds to itself
    if (!any) continue;
    moved = true;
    AddOuter(minus, h, n, g_.data());
  }
  return moved;
}

// R is upper triangular: u counts for slopes from the panel on, and moves change it from there on.
Status RunSweeps(const Context& context, const SweepPlan& plan, int64_t rows, int sweeps, float* u,
                 const MoveGroup& move) {
  const int64_t k = plan.k();
  std::vector<float> slopes(static_cast<size_t>(rows * plan.most_columns())), moves(slopes.size());
  std::vector<char> group_moved(static_cast<size_t>(CeilDiv(rows, kLanes)));
  std::vector<float> buffer;
  bool moved = true;
  for (int sweep = 0; sweep < sweeps && moved; ++sweep) {
    moved = false;
    for (const SweepPlan::Panel& panel : plan.panels()) {
      if (context.Cancelled()) return Error(ErrorCode::kInterrupted, "stopped");
      const int64_t n = panel.end - panel.begin;
      PW_ASSIGN(const FactorView::Strip strip,
                plan.r().Read(context, panel.begin, n, panel.begin, k - panel.begin, &buffer));
      GemmArgs args;
      args.m = rows;
      args.n = n;
      args.k = k - panel.begin;
      args.a = u + panel.begin;
      args.a_stride = k;
      args.b = strip.data;
      args.b_stride = strip.stride;
      args.c = slopes.data();
      args.c_stride = n;
      Gemm(context, args);
      std::fill(moves.begin(), moves.end(), 0.0f);
      ParallelFor(context, static_cast<int64_t>(group_moved.size()), [&](int64_t i) {
        const int64_t at = i * kLanes * n;
        group_moved[static_cast<size_t>(i)] =
            move(i, panel, slopes.data() + at, moves.data() + at) ? 1 : 0;
      });
      if (std::ranges::find(group_moved, 1) == group_moved.end()) continue;
      moved = true;
      GemmNnArgs back;
      back.m = rows;
      back.n = k - panel.begin;
      back.k = n;
      back.a = moves.data();
      back.a_stride = n;
      back.b = strip.data;
      back.b_stride = strip.stride;
      back.c = u + panel.begin;
      back.c_stride = k;
      back.subtract = true;
      GemmNn(context, back);
    }
  }
  return OkStatus();
}

}  // namespace pennyweight
