#include "calib/cost_model.h"

#include <algorithm>
#include <cmath>

#include "calib/input_statistics.h"
#include "calib/layer_stages.h"
#include "calib/matrix_job.h"
#include "calib/tile_work.h"
#include "calib/walk_folds.h"
#include "lib/peak_rss.h"
#include "quant/grid.h"

namespace pennyweight {
namespace {

constexpr double kUnknownRate = 1e9;
// Products of a head's short rows run at about a third of the speed of long ones.
constexpr double kAttentionFactor = 3;

double Over(double work, double rate) { return work / (rate > 0 ? rate : kUnknownRate); }

struct Seconds {
  double reading = 0, forward = 0, hessian = 0, factor = 0, search = 0, quantize = 0, measure = 0,
         writing = 0;
};

class Counter {
 public:
  Counter(const WalkInput& input, const CostRates& rates)
      : in_(input),
        rates_(rates),
        source_(*input.model->source),
        corrects_(Corrects(input.method)),
        plan_corrects_(corrects_) {
    if (in_.windows == nullptr) return;
    for (size_t i = 0; i < in_.windows->lengths.size(); ++i) {
      const auto n = static_cast<double>(in_.windows->lengths[i]);
      tokens_ += n;
      if (IsHeldOut(static_cast<int64_t>(i))) heldout_ += n;
      // Causal: a token looks back at half a window.
      pairs_ += n * n / 2;
    }
    kept_rows_ = std::min<double>(heldout_, static_cast<double>(InputStatistics::kHeldOutRows));
  }

  Seconds Count() {
    const std::vector<TensorInfo>& tensors = source_.tensors();
    for (const TensorInfo& info : tensors) {
      seconds_.reading += Over(static_cast<double>(info.bytes), rates_.read);
    }
    std::vector<char> walked(tensors.size());
    if (in_.windows != nullptr) {
      for (int64_t layer = 0; layer < in_.model->config->layers; ++layer) Layer(layer, &walked);
      Head(&walked);
    }
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (!walked[i]) Stream(i);
    }
    return seconds_;
  }

 private:
  CostRates::Type TypeOf(const Encoding& encoding) const {
    const auto found = rates_.types.find(encoding.Name());
    return found == rates_.types.end() ? CostRates::Type() : found->second;
  }

  // A tensor that needs no calibration: decoded, encoded and measured once.
  void Stream(size_t i) {
    const TensorInfo& info = source_.tensors()[i];
    const auto weights = static_cast<double>(info.elements());
    const CostRates::Type type = TypeOf(in_.choices[i].encoding);
    if (!in_.choices[i].quantize) {
      seconds_.quantize += Over(2 * weights, rates_.elements);
      return;
    }
    seconds_.quantize += Over(weights, in_.method == Method::kMinMax ? type.minmax : type.rtn);
    seconds_.measure += Over(weights, type.decode);
  }

  // The tensor of a step's matrix, of one expert where there are any; -1: there is none.
  int64_t Find(const Step& step, int64_t layer, int64_t expert = 0) const {
    const bool experts = step.kind == StepKind::kExpertLinear;
    return source_.Find(NameFor(step.weight, layer, experts ? expert : -1));
  }

  // Rows of a step's matrices for each token, and their values.
  double MatrixOps(const Step& step, int64_t layer) const {
    const bool experts = step.kind == StepKind::kExpertLinear;
    const int64_t at = Find(step, layer);
    if (at < 0) return 0;
    const auto used = static_cast<double>(experts ? in_.model->config->experts_per_token : 1);
    return 2 * used * static_cast<double>(source_.tensors()[static_cast<size_t>(at)].elements());
  }

  // Seconds of steps [begin, end) of a layer for the part `share` of all tokens.
  double Forward(int64_t layer, size_t begin, size_t end, double share) const {
    const ModelConfig& c = *in_.model->config;
    const auto width = static_cast<double>(c.hidden_size);
    double seconds = 0;
    for (size_t i = begin; i < end; ++i) {
      const Step& step = in_.model->family->layer[i];
      switch (step.kind) {
        case StepKind::kLinear:
        case StepKind::kExpertLinear:
          seconds += Over(tokens_ * MatrixOps(step, layer), rates_.gemm);
          break;
        case StepKind::kAttention:
          seconds += kAttentionFactor *
                     Over(4 * pairs_ * static_cast<double>(c.heads * c.head_dim), rates_.gemm);
          break;
        case StepKind::kSiluGate:
          seconds += Over(tokens_ * 4 * static_cast<double>(c.intermediate_size), rates_.elements);
          break;
        default:
          seconds += Over(tokens_ * width, rates_.elements);
      }
    }
    return seconds * share;
  }

  double original_share() const { return corrects_ || tokens_ == 0 ? 1 : heldout_ / tokens_; }

  // Every candidate passes through the whole layer; what its first stage reads is the same for all.
  void Layer(int64_t layer, std::vector<char>* walked) {
    const size_t end = in_.model->family->layer.size();
    const double sides = 1 + original_share();
    const double heldout_share = tokens_ > 0 ? heldout_ / tokens_ : 0;
    const auto plans = LayerWalk::Plans(in_, static_cast<int64_t>(heldout_));
    size_t at = 0;
    bool folds = false;
    for (size_t p = 0; p < plans.size(); ++p) {
      at = 0;
      plan_corrects_ = Corrects(plans[p].method);
      folds = folds || plans[p].folded;
      bool shared = p > 0;
      for (const LayerStage& stage : LayerStages(*in_.model->family)) {
        if (!shared) {
          seconds_.forward += Forward(layer, at, stage.first_step, sides);
          Statistics(stage, layer);
        }
        shared = false;
        at = stage.keep;
        for (const Step* step : stage.linears) Linear(*step, layer, walked);
        if (plan_corrects_) Plan(stage, layer);
      }
      if (plans.size() > 1) seconds_.forward += Forward(layer, at, end, heldout_share);
    }
    if (folds) Search(layer);
    seconds_.forward += Forward(layer, at, end, sides) + Forward(layer, 0, end, heldout_share);
    // The streams are kept behind each layer.
    seconds_.writing += Over(static_cast<double>(LayerWalk::HiddenBytes(in_)), rates_.write);
  }

  // The awq search (calib/awq_search.h): runs of a narrow part of the layer for every candidate
  // scale, then of the whole layer on held-out tokens, each with its matrices rounded anew.
  void Search(int64_t layer) {
    constexpr double kWhole = 9, kNarrow = 49;
    if (tokens_ == 0) return;
    const size_t end = in_.model->family->layer.size();
    const auto fitted = std::min(tokens_, static_cast<double>(kFoldTokens));
    const auto decided = std::min(heldout_, static_cast<double>(kFoldHeldOutTokens));
    const ModelConfig& c = *in_.model->config;
    const double narrow = std::min(1.0, 1024.0 / static_cast<double>(c.intermediate_size));
    seconds_.search += Forward(layer, 0, end, kWhole * decided / tokens_) +
                       Forward(layer, 0, end, kNarrow * narrow * fitted / tokens_);
    for (const Step& step : in_.model->family->layer) {
      const bool experts = step.kind == StepKind::kExpertLinear;
      if (step.kind != StepKind::kLinear && !experts) continue;
      const int64_t at = Find(step, layer);
      if (at < 0 || !in_.choices[static_cast<size_t>(at)].quantize) continue;
      const TensorInfo& info = source_.tensors()[static_cast<size_t>(at)];
      const double weights =
          static_cast<double>(info.elements()) * static_cast<double>(experts ? c.experts : 1);
      const CostRates::Type type = TypeOf(in_.choices[static_cast<size_t>(at)].encoding);
      seconds_.search += (kWhole + kNarrow * narrow) * Over(weights, type.rtn);
    }
  }

  void Statistics(const LayerStage& stage, int64_t layer) {
    const int64_t at = Find(*stage.linears[0], layer);
    if (at < 0) return;
    const auto k = static_cast<double>(source_.tensors()[static_cast<size_t>(at)].cols());
    const ModelConfig& c = *in_.model->config;
    Hessian(k, stage.experts ? static_cast<double>(c.experts_per_token) : 1,
            stage.experts ? static_cast<double>(c.experts) : 1);
  }

  // `rows` for each token, over `inputs` of k columns.
  void Hessian(double k, double rows, double inputs) {
    const double seen = (tokens_ - heldout_) * rows;
    seconds_.hessian += Over(seen * k * k, rates_.syrk);
    seconds_.factor += inputs * Over(k * k * k / 3, rates_.factor);
    if (!plan_corrects_ || k > static_cast<double>(InputStatistics::kMaxDriftWidth)) return;
    seconds_.hessian += Over(2 * seen * k * k, rates_.gemm);
    seconds_.factor += inputs * Over(2 * k * k * k, rates_.solve);
  }

  void Linear(const Step& step, int64_t layer, std::vector<char>* walked) {
    const bool experts = step.kind == StepKind::kExpertLinear;
    const int64_t count = experts ? in_.model->config->experts : 1;
    for (int64_t expert = 0; expert < count; ++expert) {
      const int64_t at = Find(step, layer, expert);
      if (at < 0) continue;
      const auto i = static_cast<size_t>(at);
      (*walked)[i] = 1;
      in_.choices[i].quantize ? Matrix(i) : Stream(i);
    }
  }

  // gptq looks once at each input's factor (of one type).
  void Plan(const LayerStage& stage, int64_t layer) {
    const int64_t at = Find(*stage.linears[0], layer);
    if (at < 0 || !in_.choices[static_cast<size_t>(at)].quantize) return;
    const int64_t cols = source_.tensors()[static_cast<size_t>(at)].cols();
    const Encoding& encoding = in_.choices[static_cast<size_t>(at)].encoding;
    if (MakeGrid(encoding, cols) == nullptr) return;
    const auto k = static_cast<double>(cols);
    const double inputs = stage.experts ? static_cast<double>(in_.model->config->experts) : 1;
    const CostRates::Type type = TypeOf(encoding);
    seconds_.quantize += Over(inputs * k * k, type.gptq_plan);
  }

  // QuantizeMatrix: every candidate is encoded, decoded, and tried on the kept rows.
  void Matrix(size_t i) {
    const TensorInfo& info = source_.tensors()[i];
    const auto n = static_cast<double>(info.rows()), k = static_cast<double>(info.cols());
    const double weights = n * k;
    const Encoding& encoding = in_.choices[i].encoding;
    const CostRates::Type type = TypeOf(encoding);
    const bool gptq = plan_corrects_ && MakeGrid(encoding, info.cols()) != nullptr;
    const double candidates = gptq ? 3 : 2;
    seconds_.quantize += Over(weights, type.rtn) + Over(weights, type.minmax);
    double products = 2 * kept_rows_ * weights * (1 + candidates);
    // What was written, through the factor: weights and their error.
    products += 2 * weights * k;
    const bool drift = plan_corrects_ && info.cols() <= InputStatistics::kMaxDriftWidth;
    if (drift) {
      const double part = std::min(n, 1024.0) / n;
      products += part * weights * (2 * k + 6 * kept_rows_);
    }
    if (gptq) {
      seconds_.quantize += Over(weights, type.gptq) + Over(weights * k, type.gptq_products);
      if (drift) products += 2 * weights * k;
    }
    seconds_.measure += Over(products, rates_.gemm) +
                        Over(weights * (candidates + 2), type.decode) +
                        Over(6 * weights, rates_.elements);
  }

  void Head(std::vector<char>* walked) {
    const int64_t at = source_.Find(in_.model->family->head);
    if (at < 0 || !in_.choices[static_cast<size_t>(at)].quantize) return;
    Hessian(static_cast<double>(in_.model->config->hidden_size), 1, 1);
    (*walked)[static_cast<size_t>(at)] = 1;
    Matrix(static_cast<size_t>(at));
  }

  const WalkInput& in_;
  const CostRates& rates_;
  const TensorSource& source_;
  bool corrects_;       // of the run: the original model is run on all tokens
  bool plan_corrects_;  // of the candidate that is counted
  double tokens_ = 0, heldout_ = 0, kept_rows_ = 0;
  double pairs_ = 0;  // of a token and one that it looks back at
  Seconds seconds_;
};

// The tiles of tensors that are streamed, one in each thread, and what the process has already.
uint64_t StreamBytes(const Context& context, const WalkInput& input) {
  constexpr uint64_t kProgram = 16u << 20;
  uint64_t largest = 0;
  std::vector<size_t> all(input.model->source->tensors().size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  for (const Tile& tile : CutTiles(input.model->source->tensors(), all, input.choices)) {
    const auto cols = static_cast<uint64_t>(input.model->source->tensors()[tile.tensor].cols());
    largest = std::max(largest, static_cast<uint64_t>(tile.rows) * cols * kTileBytesPerValue);
  }
  const uint64_t room = context.memory_limit > kProgram ? context.memory_limit - kProgram : 0;
  const auto threads = static_cast<uint64_t>(std::max(1, context.threads));
  const uint64_t fit = largest == 0 ? 1 : std::clamp<uint64_t>(room / largest, 1, threads);
  return kProgram + fit * largest;
}

// The Hessian of the widest input, where it lies in panels.
struct WidePanels {
  uint64_t resident = 0;  // beside the fewest that LayerWalk::WorkingBytes counts
  uint64_t scratch = 0;
  double passes = 0;  // over the scratch file, in all layers
};

WidePanels CountPanels(const WalkInput& input, uint64_t spare) {
  // Changed by each chunk of tokens, and half a dozen times until it is factored; read for each of
  // gptq's blocks of rows: to code them, for the slopes, twice for sweeps, and to measure errors.
  constexpr double kFactorPasses = 15, kRowsPasses = 6, kBlockRows = 512;
  WidePanels panels;
  const int64_t k = LayerWalk::PanelWidth(input);
  if (k == 0) return panels;
  const ModelConfig& c = *input.model->config;
  const uint64_t full = PanelMatrix::FullBytes(k), more = full - PanelMatrix::LeastBytes(k);
  panels.resident = std::min(more, spare);
  if (panels.resident == more) return panels;
  panels.scratch = full - spare;
  const auto chunks = static_cast<double>(input.windows->tokens()) / WalkTokens::kChunkTokens;
  panels.passes = static_cast<double>(c.layers) *
                  (2 * chunks + kFactorPasses +
                   kRowsPasses * std::ceil(static_cast<double>(c.hidden_size) / kBlockRows));
  return panels;
}

}  // namespace

CostPlan PredictCost(const Context& context, const WalkInput& input, const CostRates& rates,
                     uint64_t output_bytes) {
  CostPlan plan;
  plan.output_bytes = output_bytes;
  plan.peak_rss_bytes = StreamBytes(context, input);
  double passes_bytes = 0;  // of panels, read again and again
  if (input.windows != nullptr) {
    const uint64_t working = LayerWalk::WorkingBytes(input);
    const uint64_t hidden = LayerWalk::HiddenBytes(input);
    const bool spills = working + hidden > context.memory_limit;
    plan.peak_rss_bytes = working + (spills ? 0 : hidden);
    // The streams that were kept behind two layers, and those that are worked on.
    plan.scratch_bytes = (spills ? 3 : 2) * hidden;
    const uint64_t spare =
        context.memory_limit - std::min(context.memory_limit, plan.peak_rss_bytes);
    const WidePanels panels = CountPanels(input, spare);
    plan.peak_rss_bytes += panels.resident;
    plan.scratch_bytes += panels.scratch;
    passes_bytes = panels.passes * static_cast<double>(panels.scratch);
  }
  plan.fits = plan.peak_rss_bytes <= context.memory_limit;
  Seconds s = Counter(input, rates).Count();
  s.writing += Over(static_cast<double>(output_bytes), rates.write);
  s.reading += Over(passes_bytes, rates.read);
  plan.phases = {{"reading", s.reading}, {"forward", s.forward}, {"hessian", s.hessian},
                 {"factor", s.factor},   {"search", s.search},   {"quantize", s.quantize},
                 {"measure", s.measure}, {"writing", s.writing}};
  for (const auto& [name, seconds] : plan.phases) plan.seconds += seconds;
  return plan;
}

}  // namespace pennyweight
