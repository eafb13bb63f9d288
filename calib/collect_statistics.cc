#include "calib/collect_statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "lib/checked.h"
#include "lib/linalg.h"
#include "lib/parallel.h"

namespace pennyweight {
namespace {

// Channels whose sums stay in a core's first-level cache while all rows pass.
constexpr int64_t kChannelBlock = 128;

// A place in a layer where the input of some linears can be seen.
struct Watch {
  size_t step = 0;  // of the family's layer: the first of those linears
  Slot slot = Slot::kNone;
  bool experts = false;  // an input for each expert, of the rows that are routed to it
  std::vector<std::string_view> patterns;
};

// What is learned of one input of a layer.
struct Unit {
  size_t watch = 0;
  int64_t expert = -1;
  InputSums sums;
  std::vector<float> hessian;
};

uint64_t HessianBytes(int64_t width) {
  return static_cast<uint64_t>(width * width) * sizeof(float);
}

std::vector<Watch> WatchesOf(const Family& family) {
  std::vector<Watch> watches;
  for (size_t i = 0; i < family.layer.size(); ++i) {
    const Step& step = family.layer[i];
    const bool experts = step.kind == StepKind::kExpertLinear;
    if (step.kind != StepKind::kLinear && !experts) continue;
    const bool same = i > 0 && !watches.empty() && family.layer[i - 1].kind == step.kind &&
                      watches.back().slot == step.in;
    if (!same) watches.push_back({i, step.in, experts, {}});
    watches.back().patterns.push_back(step.weight);
  }
  return watches;
}

InputSums EmptySums(int64_t width) {
  InputSums sums;
  sums.width = width;
  const auto n = static_cast<size_t>(width);
  sums.sum_sq.assign(n, 0);
  sums.sum.assign(n, 0);
  sums.sum_abs.assign(n, 0);
  sums.max_abs.assign(n, 0);
  return sums;
}

Status CheckFinite(const InputSums& sums) {
  // A NaN anywhere makes the sum of squares of its channel one.
  if (std::ranges::all_of(sums.sum_sq, [](double v) { return std::isfinite(v); })) {
    return OkStatus();
  }
  return Error(ErrorCode::kNonFinite, "the model's activations are not finite")
      .InTensor(sums.weights.front());
}

class Collector {
 public:
  Collector(const Context& context, const RunnableModel& model, const Windows& windows,
            const CollectOptions& options, const InputCallback& on_input)
      : context_(context),
        model_(model),
        windows_(windows),
        options_(options),
        on_input_(on_input),
        chunks_(CutChunks(windows.lengths)),
        watches_(WatchesOf(*model.family)),
        runner_(*model.family, *model.config) {
    runner_.RouteAll(options.all_experts);
  }

  Status Run() {
    PW_TRY(Plan());
    PW_ASSIGN(HiddenStore store,
              HiddenStore::Create(windows_.tokens(), model_.config->hidden_size, scratch_dir_));
    PW_TRY(Embed(&store));
    for (int64_t layer = 0; layer < model_.config->layers; ++layer) PW_TRY(Layer(layer, &store));
    return HasHead() ? Head(store) : OkStatus();
  }

 private:
  bool HasHead() const { return options_.head && model_.source->Find(model_.family->head) >= 0; }

  int64_t Inputs(const Watch& watch) const { return watch.experts ? model_.config->experts : 1; }

  // With all experts for every token: what RunBytes did not count.
  uint64_t UnroutedBytes() const {
    const ModelConfig& c = *model_.config;
    if (!options_.all_experts) return 0;
    int64_t chunk = 0;
    for (const WindowChunk& each : chunks_) chunk = std::max(chunk, each.tokens);
    const int64_t more = std::max<int64_t>(0, c.experts - c.experts_per_token);
    const int64_t floats = chunk * more * (3 * c.intermediate_size + 2 * c.hidden_size);
    return static_cast<uint64_t>(floats) * sizeof(float);
  }

  // What fits where.
  Status Plan() {
    uint64_t sums = 0, widest = 0;
    for (const Watch& watch : watches_) {
      const int64_t width = runner_.width(watch.slot);
      sums += static_cast<uint64_t>(width * Inputs(watch)) * (3 * sizeof(double) + sizeof(float));
      widest = std::max(widest, HessianBytes(width));
    }
    const uint64_t working = RunBytes(model_, windows_.lengths) + sums + UnroutedBytes();
    const uint64_t least = working + (options_.hessians ? widest : 0);
    if (least > context_.memory_limit) {
      const uint64_t megabytes = least / 1000000 + 1;
      return Error(ErrorCode::kMemory,
                   fmt::format("watching one layer needs about {} MB, the limit is {} MB",
                               megabytes, context_.memory_limit / 1000000))
          .Hint(fmt::format("--memory {}M", megabytes));
    }
    const uint64_t states =
        static_cast<uint64_t>(windows_.tokens() * model_.config->hidden_size) * sizeof(float);
    const bool spill = states > context_.memory_limit - least;
    if (spill) scratch_dir_ = options_.scratch_dir;
    hessian_budget_ = context_.memory_limit - working - (spill ? 0 : states);
    return OkStatus();
  }

  Status Embed(HiddenStore* store) {
    for (const WindowChunk& chunk : chunks_) {
      if (context_.Cancelled()) return Error(ErrorCode::kInterrupted, "interrupted");
      hidden_.resize(static_cast<size_t>(chunk.tokens * store->width()));
      const auto ids =
          std::span(windows_.ids)
              .subspan(static_cast<size_t>(chunk.token), static_cast<size_t>(chunk.tokens));
      PW_TRY(EmbedTokens(*model_.source, *model_.family, *model_.config, ids, hidden_.data()));
      PW_TRY(store->Write(chunk.token, chunk.tokens, hidden_.data()));
    }
    return OkStatus();
  }

  std::vector<Unit> UnitsOf(int64_t layer) const {
    std::vector<Unit> units;
    for (size_t w = 0; w < watches_.size(); ++w) {
      const Watch& watch = watches_[w];
      for (int64_t i = 0; i < Inputs(watch); ++i) {
        Unit unit;
        unit.watch = w;
        unit.expert = watch.experts ? i : -1;
        unit.sums = EmptySums(runner_.width(watch.slot));
        for (const std::string_view pattern : watch.patterns) {
          unit.sums.weights.push_back(NameFor(pattern, layer, unit.expert));
        }
        units.push_back(std::move(unit));
      }
    }
    return units;
  }

  Status Layer(int64_t layer, HiddenStore* store) {
    PW_ASSIGN(const LayerWeights weights,
              LoadLayer(*model_.source, *model_.family, *model_.config, layer));
    std::vector<Unit> units = UnitsOf(layer);
    // As many inputs in one pass as their Hessians fit; without Hessians that is all.
    for (size_t begin = 0; begin < units.size();) {
      uint64_t bytes = 0;
      size_t end = begin;
      do {
        if (options_.hessians) bytes += HessianBytes(units[end].sums.width);
        ++end;
      } while (
          end < units.size() &&
          (!options_.hessians || bytes + HessianBytes(units[end].sums.width) <= hessian_budget_));
      const std::span<Unit> group = std::span(units).subspan(begin, end - begin);
      PW_TRY(Pass(weights, layer, group, end == units.size(), store));
      for (Unit& unit : group) {
        PW_TRY(CheckFinite(unit.sums));
        PW_TRY(on_input_(std::move(unit.sums), unit.hessian));
        unit.hessian = {};
      }
      begin = end;
    }
    return OkStatus();
  }

  // One run of the layer over all windows, in which the units of `group` are watched. The last one
  // takes the hidden states behind the layer.
  Status Pass(const LayerWeights& weights, int64_t layer, std::span<Unit> group, bool last,
              HiddenStore* store) {
    if (context_.progress != nullptr) {
      context_.progress->Phase(fmt::format("layer {} of {}", layer + 1, model_.config->layers),
                               windows_.tokens());
    }
    if (options_.hessians) {
      for (Unit& unit : group) {
        unit.hessian.assign(static_cast<size_t>(unit.sums.width * unit.sums.width), 0.0f);
      }
    }
    // Behind the last layer nothing reads the hidden states but the head.
    const bool onward = last && (layer + 1 < model_.config->layers || HasHead());
    for (const WindowChunk& chunk : chunks_) {
      if (context_.Cancelled()) return Error(ErrorCode::kInterrupted, "interrupted");
      hidden_.resize(static_cast<size_t>(chunk.tokens * store->width()));
      PW_TRY(store->Read(chunk.token, chunk.tokens, hidden_.data()));
      size_t step = 0;
      for (Unit& unit : group) {
        const Watch& watch = watches_[unit.watch];
        if (watch.step > step) {
          runner_.Run(context_, weights, chunk.windows, step, watch.step, hidden_.data());
          step = watch.step;
        }
        const auto [first, rows] = RowsOf(unit, chunk);
        Add(runner_.slot(watch.slot) + first * unit.sums.width, rows, &unit);
      }
      if (onward) {
        runner_.Run(context_, weights, chunk.windows, step, model_.family->layer.size(),
                    hidden_.data());
        PW_TRY(store->Write(chunk.token, chunk.tokens, hidden_.data()));
      }
      if (context_.progress != nullptr) context_.progress->Advance(chunk.token + chunk.tokens);
    }
    return OkStatus();
  }

  // The first row of a unit in its slot, and how many there are.
  std::pair<int64_t, int64_t> RowsOf(const Unit& unit, const WindowChunk& chunk) const {
    if (unit.expert < 0) return {0, chunk.tokens};
    const std::vector<int64_t>& begin = runner_.routing().begin;
    const auto expert = static_cast<size_t>(unit.expert);
    return {begin[expert], begin[expert + 1] - begin[expert]};
  }

  void Add(const float* x, int64_t rows, Unit* unit) const {
    AddRows(context_, x, rows, &unit->sums);
    unit->sums.tokens += rows;
    if (unit->hessian.empty() || rows == 0) return;
    const int64_t width = unit->sums.width;
    SyrkUpper(context_, rows, width, x, width, unit->hessian.data(), width);
  }

  Status Head(const HiddenStore& store) {
    Unit unit;
    unit.sums = EmptySums(store.width());
    unit.sums.weights = {std::string(model_.family->head)};
    if (options_.hessians) {
      unit.hessian.assign(static_cast<size_t>(store.width() * store.width()), 0.0f);
    }
    for (const WindowChunk& chunk : chunks_) {
      if (context_.Cancelled()) return Error(ErrorCode::kInterrupted, "interrupted");
      hidden_.resize(static_cast<size_t>(chunk.tokens * store.width()));
      PW_TRY(store.Read(chunk.token, chunk.tokens, hidden_.data()));
      PW_TRY(FinalNorm(context_, model_, chunk.tokens, hidden_.data()));
      Add(hidden_.data(), chunk.tokens, &unit);
    }
    PW_TRY(CheckFinite(unit.sums));
    return on_input_(std::move(unit.sums), unit.hessian);
  }

  const Context& context_;
  const RunnableModel& model_;
  const Windows& windows_;
  const CollectOptions& options_;
  const InputCallback& on_input_;
  const std::vector<WindowChunk> chunks_;
  const std::vector<Watch> watches_;
  LayerRunner runner_;
  std::string scratch_dir_;
  uint64_t hessian_budget_ = 0;
  std::vector<float> hidden_;  // of one chunk
};

}  // namespace

void AddRows(const Context& context, const float* x, int64_t rows, InputSums* sums) {
  const int64_t width = sums->width;
  ParallelFor(context, CeilDiv(width, kChannelBlock), [&](int64_t block) {
    const int64_t begin = block * kChannelBlock;
    const auto count = static_cast<size_t>(std::min(kChannelBlock, width - begin));
    double* const squares = sums->sum_sq.data() + begin;
    double* const plain = sums->sum.data() + begin;
    double* const sizes = sums->sum_abs.data() + begin;
    float* const largest = sums->max_abs.data() + begin;
    for (int64_t t = 0; t < rows; ++t) {
      const float* row = x + t * width + begin;
      for (size_t i = 0; i < count; ++i) {
        const double v = row[i];
        squares[i] += v * v;
        plain[i] += v;
        sizes[i] += std::fabs(v);
        largest[i] = std::max(largest[i], std::fabs(row[i]));
      }
    }
  });
}

Status CollectStatistics(const Context& context, const RunnableModel& model, const Windows& windows,
                         const CollectOptions& options, const InputCallback& on_input) {
  return Collector(context, model, windows, options, on_input).Run();
}

}  // namespace pennyweight
