#include "quant/gptq_block.h"

#include <algorithm>

#include "quant/method_checks.h"

namespace pennyweight {
namespace {

constexpr int64_t kMaxUnit = 8;

}  // namespace

std::vector<float> ScaleImportance(std::span<const float> diagonal, std::span<const int32_t> places,
                                   int64_t width) {
  std::vector<float> importance(diagonal.size());
  for (size_t j = 0; j < diagonal.size(); ++j) {
    const size_t block = j / static_cast<size_t>(width) * static_cast<size_t>(width);
    importance[block + static_cast<size_t>(places[j])] = diagonal[j] * diagonal[j];
  }
  return BlockImportance(importance, static_cast<int64_t>(diagonal.size()), width);
}

BlockCoder::BlockCoder(const Encoding& encoding, int64_t cols, Effort effort) {
  grids_.push_back(MakeGrid(encoding, cols, effort));
  width_ = grids_[0]->block();
  if (width_ > kGptqPanel) {
    stored_ = LaneArray<float>(width_ * kLanes);
    return;
  }
  while (grids_.size() < kPasses) grids_.push_back(MakeGrid(encoding, cols, effort));
  for (Attempt& a : attempts_) {
    a.targets = LaneArray<float>(width_ * kLanes);
    a.values = LaneArray<float>(width_ * kLanes);
  }
  run_sums_ = LaneArray<float>(width_ * kLanes);
  fit_weights_ = LaneArray<float>(width_ * kLanes);
  sub_weights_ = LaneArray<float>(width_ * kLanes);
  stored_ = LaneArray<float>(width_ * kLanes);
}

const float* BlockCoder::Stored(const float* coded, const int32_t* places, int64_t n) {
  int32_t first = places[0];
  for (int64_t i = 0; i < n; ++i) first = std::min(first, places[i]);
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(coded + i * kLanes, kLanes, stored_.data() + (places[i] - first) * kLanes);
  }
  return stored_.data();
}

void BlockCoder::Targets(const float* w, const float* sums, const CodedColumns& columns, int64_t n,
                         float* targets) {
  for (int64_t i = 0; i < n; ++i) {
    const float inverse = columns.inverse[i];
    for (int64_t l = i * kLanes; l < (i + 1) * kLanes; ++l) targets[l] = w[l] + sums[l] * inverse;
  }
}

// t = w + s R^-1 of the unit that begins with the columns.
void BlockCoder::UnitTargets(const CodedColumns& columns, const float* w, const float* sums,
                             int64_t unit, float* t) const {
  if (unit == 1) return Targets(w, sums, columns, 1, t);
  for (int64_t j = 0; j < unit; ++j) {
    for (int64_t l = 0; l < kLanes; ++l) {
      float s = sums[j * kLanes + l];
      for (int64_t i = 0; i < j; ++i) s -= t[i * kLanes + l] * columns.r[i * columns.stride + j];
      t[j * kLanes + l] = s * columns.inverse[j];
    }
  }
  for (int64_t l = 0; l < unit * kLanes; ++l) t[l] += w[l];
}

// Adds |(t - q) R|^2 of the unit to each lane's loss.
void BlockCoder::AddLoss(const CodedColumns& columns, const float* t, const float* q, int64_t unit,
                         Attempt* attempt) const {
  for (int64_t l = 0; l < kLanes; ++l) {
    for (int64_t j = 0; j < unit; ++j) {
      double miss = 0;
      for (int64_t i = 0; i <= j; ++i) {
        miss += (static_cast<double>(t[i * kLanes + l]) - q[i * kLanes + l]) *
                columns.r[i * columns.stride + j];
      }
      attempt->loss[static_cast<size_t>(l)] += miss * miss;
    }
  }
}

void BlockCoder::Code(BlockGrid* grid, const CodedColumns& columns, int64_t c0, int64_t c1,
                      const float* w, float* sums, bool subs, Attempt* attempt) {
  const int64_t sub = grid->sub_block();
  const int64_t unit = grid->unit();
  alignas(kLaneAlign) float errors[kMaxUnit * kLanes];
  attempt->loss.fill(0);
  for (int64_t c = c0; c < c1; c += unit) {
    const int64_t at = (c - c0) * kLanes;
    const CodedColumns rest = columns.From(c - c0);
    if (subs && c % sub == 0 && c > c0) {
      const int64_t s = rest.places[0] / sub;
      Targets(w + at, sums + at, rest, sub, sub_weights_.data());
      grid->BeginSubBlock(s, Stored(sub_weights_.data(), rest.places, sub),
                          columns.importance + s * sub);
    }
    float* targets = attempt->targets.data() + at;
    float* q = attempt->values.data() + at;
    UnitTargets(rest, w + at, sums + at, unit, targets);
    grid->Round(rest.places[0], targets, rest.r, rest.stride, q);
    for (int64_t l = 0; l < unit * kLanes; ++l) errors[l] = w[at + l] - q[l];
    AddLoss(rest, targets, q, unit, attempt);
    for (int64_t i = 0; i < unit; ++i) {
      AddOuter(errors + i * kLanes, rest.r + i * rest.stride + unit, c1 - c - unit,
               sums + at + unit * kLanes);
    }
  }
}

std::array<double, kLanes> BlockCoder::FitAndCode(const CodedColumns& columns, const float* w,
                                                  const float* sums, BlockGrid* grid,
                                                  float* values) {
  const bool subs = sub_block() < width_;
  float* next = fit_weights_.data();
  Targets(w, sums, columns, width_, next);
  LaneMask alive;
  alive.fill(true);
  best_.fill(0);
  for (size_t pass = 0; pass < kPasses; ++pass) {
    Attempt& attempt = attempts_[pass];
    grids_[pass]->BeginBlock(Stored(next, columns.places, width_), columns.importance,
                             ScaleSearch::kSearch);
    std::copy_n(sums, width_ * kLanes, run_sums_.data());
    Code(grids_[pass].get(), columns, 0, width_, w, run_sums_.data(), subs, &attempt);
    bool any = false;
    for (size_t l = 0; l < kLanes; ++l) {
      if (!alive[l]) continue;
      alive[l] = pass == 0 || attempt.loss[l] < attempts_[best_[l]].loss[l];
      if (!alive[l]) continue;
      best_[l] = pass;
      any = true;
      for (int64_t i = static_cast<int64_t>(l); i < width_ * kLanes; i += kLanes) {
        next[i] = attempt.targets[i];
      }
    }
    if (!any) break;
  }
  for (size_t pass = 0; pass < kPasses; ++pass) {
    LaneMask lanes;
    bool any = false;
    for (size_t l = 0; l < kLanes; ++l) any |= lanes[l] = best_[l] == pass;
    if (!any) continue;
    grid->TakeLanes(*grids_[pass], lanes);
    TakeLanes(attempts_[pass].values.data(), width_, lanes, values);
  }
  std::array<double, kLanes> loss;
  for (size_t l = 0; l < kLanes; ++l) loss[l] = attempts_[best_[l]].loss[l];
  return loss;
}

}  // namespace pennyweight
