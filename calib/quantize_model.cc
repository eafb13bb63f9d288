#include "calib/quantize_model.h"

#include <fmt/format.h>

#include <algorithm>

#include "calib/hessian_job.h"
#include "calib/layer_walk.h"
#include "calib/stream_tensors.h"
#include "calib/unit_result.h"
#include "lib/file.h"
#include "lib/fold_record.h"
#include "lib/folded_source.h"
#include "quant/codec.h"

namespace pennyweight {
namespace {

// What a row ranks by when the worst tensor of a layer is named.
double Badness(const TensorReport& t) {
  if (t.output_rel_error_heldout) return *t.output_rel_error_heldout;
  if (t.output_rel_error) return *t.output_rel_error;
  return t.weight_rel_mse.value_or(0);
}

// The work on a model, one unit after the other, and what is known of each unit from a stopped run.
class Work {
 public:
  // Everything outlives it; `journal` may be null.
  Work(Journal* journal, Report* report, std::vector<char>* done, ErrorSums* sums,
       FoldedSource* source, FoldRecord* folds)
      : journal_(journal),
        report_(report),
        done_(done),
        sums_(sums),
        source_(source),
        folds_(folds),
        first_fold_(folds == nullptr ? 0 : folds->folds.size()) {}

  // Takes over the unit's results, if the stopped run finished it.
  bool Restore(const JournalUnit& unit) {
    const std::string* found = journal_ == nullptr ? nullptr : journal_->FindUnit(unit);
    TensorsResult result;
    if (found == nullptr || !UnpackTensors(*found, &result, &report_->tensors)) return false;
    if (!RestoreFolds(result.folds)) return false;
    for (const size_t index : result.tensors) (*done_)[index] = 1;
    *sums_ = result.sums;
    if (result.layer) report_->layers.push_back(*result.layer);
    recorded_ = *done_;
    return true;
  }

  // The unit is done: it wrote all tensors that became done since the last one.
  Status Record(const JournalUnit& unit, const std::optional<LayerReport>& layer,
                const FoldRecord& folds) {
    if (layer) report_->layers.push_back(*layer);
    if (folds_ != nullptr) Append(folds);
    if (journal_ == nullptr) return OkStatus();
    TensorsResult result;
    if (!folds.empty()) result.folds = FoldRecordToJson(folds);
    for (size_t i = 0; i < done_->size(); ++i) {
      const bool before = i < recorded_.size() && recorded_[i] != 0;
      if ((*done_)[i] != 0 && !before) result.tensors.push_back(i);
    }
    result.sums = *sums_;
    result.layer = layer;
    recorded_ = *done_;
    return journal_->RecordUnit(unit, PackTensors(result, report_->tensors));
  }

  // Forgets everything that was restored.
  void Restart(const std::vector<TensorReport>& described) {
    report_->tensors = described;
    report_->layers.clear();
    std::fill(done_->begin(), done_->end(), 0);
    recorded_.clear();
    *sums_ = ErrorSums();
    for (size_t i = 0; i < source_->tensors().size(); ++i) source_->SetFold(i, Fold());
    if (folds_ != nullptr) folds_->folds.resize(first_fold_);
  }

 private:
  void Append(const FoldRecord& folds) {
    folds_->folds.insert(folds_->folds.end(), folds.folds.begin(), folds.folds.end());
  }

  // Puts a layer's folds back into the source.
  bool RestoreFolds(const std::string& text) {
    if (text.empty()) return true;
    const auto record = ParseFoldRecord(text);
    if (!record.ok()) return false;
    const auto folds = FoldsOf(*record, *source_);
    if (!folds.ok()) return false;
    for (const auto& [index, fold] : *folds) {
      const Fold* before = source_->FoldOf(index);
      source_->SetFold(index, before == nullptr ? fold : Compose(*before, fold));
    }
    if (folds_ != nullptr) Append(*record);
    return true;
  }

  Journal* journal_;
  Report* report_;
  std::vector<char>* done_;
  std::vector<char> recorded_;
  ErrorSums* sums_;
  FoldedSource* source_;
  FoldRecord* folds_;
  size_t first_fold_;  // those before it came with the model
};

std::string HiddenName(int64_t layer) { return fmt::format("hidden-{}", layer); }

// The first layer that is still to be done, with the streams and results of all before it; -1 when
// not even the embedding is.
Result<int64_t> RestoreLayers(const Journal* journal, int64_t layers, LayerWalk* walk, Work* work) {
  if (journal == nullptr || !journal->resumed()) return int64_t{-1};
  if (!work->Restore(Unit(UnitKind::kEmbedding))) return int64_t{-1};
  int64_t next = 0;
  while (next < layers && work->Restore(Unit(UnitKind::kLayer, static_cast<uint64_t>(next)))) {
    ++next;
  }
  if (next == 0) return int64_t{-1};
  PW_ASSIGN(const bool loaded, walk->LoadStreams(journal->Sidecar(HiddenName(next - 1)), next - 1));
  return loaded ? next : int64_t{-1};
}

Status Calibrate(const Context& context, const WalkInput& input, const std::string& scratch_dir,
                 Journal* journal, Work* work) {
  const std::vector<TensorReport> described = *input.reports;
  PW_ASSIGN(const std::unique_ptr<LayerWalk> walk, LayerWalk::Create(context, input, scratch_dir));
  const int64_t layers = input.model->config->layers;
  PW_ASSIGN(int64_t next, RestoreLayers(journal, layers, walk.get(), work));
  if (next < 0) {
    work->Restart(described);
    PW_TRY(walk->Embed(context));
    PW_TRY(work->Record(Unit(UnitKind::kEmbedding), std::nullopt, {}));
    next = 0;
  }
  for (; next < layers; ++next) {
    FoldRecord folds;
    PW_ASSIGN(const LayerReport report, walk->Layer(context, next, &folds));
    // The streams first: a recorded layer can always be gone on from.
    if (journal != nullptr) PW_TRY(walk->SaveStreams(journal->Sidecar(HiddenName(next)), next));
    PW_TRY(work->Record(Unit(UnitKind::kLayer, static_cast<uint64_t>(next)), report, folds));
    if (journal != nullptr && next > 0) RemoveFile(journal->Sidecar(HiddenName(next - 1)));
  }
  if (work->Restore(Unit(UnitKind::kHead))) return OkStatus();
  PW_TRY(walk->Head(context));
  return work->Record(Unit(UnitKind::kHead), std::nullopt, {});
}

// Every input that has a Hessian, one after the other.
Status QuantizeInputs(const Context& context, const HessianJob& job, Work* work) {
  const auto inputs = static_cast<int64_t>(job.known->statistics().inputs.size());
  if (context.progress) context.progress->Phase("quantizing by Hessians", inputs);
  for (int64_t i = 0; i < inputs; ++i) {
    const JournalUnit unit = Unit(UnitKind::kInput, static_cast<uint64_t>(i));
    if (!work->Restore(unit)) {
      PW_TRY(QuantizeByHessian(context, job, static_cast<size_t>(i)));
      PW_TRY(work->Record(unit, std::nullopt, {}));
    }
    if (context.progress) context.progress->Advance(i + 1);
  }
  return OkStatus();
}

}  // namespace

TensorReport DescribeTensor(const Model& model, const TensorInfo& info) {
  TensorReport row;
  row.name = info.name;
  row.shape = info.shape;
  row.from = info.encoding.Name();
  row.bytes_in = info.bytes;
  row.role = GuessRole(info.name, info.shape.size());
  if (model.family != nullptr) {
    const TensorPlace place = PlaceOfHf(*model.family, info.name);
    if (place.rule != nullptr) row.role = place.rule->role;
    if (place.layer >= 0) row.layer = place.layer;
    if (place.expert >= 0) row.expert = place.expert;
  }
  return row;
}

std::vector<TensorReport> DescribeOutput(const Model& model, std::span<const Choice> choices,
                                         const TensorSink& sink) {
  const std::vector<TensorInfo>& tensors = model.source->tensors();
  std::vector<TensorReport> rows;
  for (size_t i = 0; i < tensors.size(); ++i) {
    TensorReport row = DescribeTensor(model, tensors[i]);
    row.output_name = sink.OutputName(i);
    row.to = choices[i].encoding.Name();
    row.bytes = sink.OutputBytes(i);
    const double elements = static_cast<double>(std::max<int64_t>(1, tensors[i].elements()));
    row.bits_per_weight = static_cast<double>(row.bytes) * 8 / elements;
    row.fallback = choices[i].fallback;
    rows.push_back(std::move(row));
  }
  return rows;
}

void SummariseTensors(Report* report) {
  ReportTotals& totals = report->totals;
  double bits = 0, weights = 0;
  std::vector<double> layer_bits(report->layers.size()), layer_weights(report->layers.size());
  std::vector<double> worst(report->layers.size(), -1);
  for (const TensorReport& t : report->tensors) {
    const double elements = static_cast<double>(ElementCount(t.shape).value_or(0));
    totals.bytes_in += t.bytes_in;
    bits += static_cast<double>(t.bytes) * 8;
    weights += elements;
    if (!t.layer) continue;
    for (size_t i = 0; i < report->layers.size(); ++i) {
      LayerReport& layer = report->layers[i];
      if (layer.layer != *t.layer) continue;
      layer.bytes += t.bytes;
      layer_bits[i] += static_cast<double>(t.bytes) * 8;
      layer_weights[i] += elements;
      if (IsLayerLinear(t.role) && Badness(t) > worst[i]) {
        worst[i] = Badness(t);
        layer.worst_tensor = t.name;
      }
    }
  }
  totals.bits_per_weight = weights > 0 ? bits / weights : 0;
  for (size_t i = 0; i < report->layers.size(); ++i) {
    if (layer_weights[i] > 0) report->layers[i].bits_per_weight = layer_bits[i] / layer_weights[i];
  }
}

Result<Report> QuantizeModel(const Context& context, const Model& model,
                             std::span<const Choice> choices, const QuantizeOptions& options,
                             TensorSink* sink) {
  const std::vector<TensorInfo>& tensors = model.source->tensors();
  Report report;
  report.tensors = DescribeOutput(model, choices, *sink);
  std::vector<char> done(tensors.size());
  ErrorSums sums;
  FoldedSource source(model.source.get(), ReadFloatRows);
  Work work(options.journal, &report, &done, &sums, &source, options.folds);
  if (options.windows != nullptr) {
    WalkInput input;
    input.model = &model;
    input.source = &source;
    input.windows = options.windows;
    input.choices = choices;
    input.method = options.method;
    input.effort = options.effort;
    input.all_experts = options.all_experts;
    input.sink = sink;
    input.reports = &report.tensors;
    input.done = &done;
    input.sums = &sums;
    PW_TRY(Calibrate(context, input, options.scratch_dir, options.journal, &work));
  } else {
    int64_t layers = 0;
    for (const TensorReport& t : report.tensors)
      layers = std::max(layers, t.layer.value_or(-1) + 1);
    for (int64_t i = 0; i < layers; ++i) report.layers.emplace_back().layer = i;
  }
  const bool by_hessians = options.windows == nullptr && options.known != nullptr &&
                           options.known->has_hessians() && options.method == Method::kGptq;
  if (by_hessians) {
    HessianJob by_input;
    by_input.source = model.source.get();
    by_input.choices = choices;
    by_input.known = options.known;
    by_input.effort = options.effort;
    by_input.sink = sink;
    by_input.reports = &report.tensors;
    by_input.done = &done;
    by_input.sums = &sums;
    PW_TRY(QuantizeInputs(context, by_input, &work));
  }
  std::vector<size_t> rest;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!done[i]) rest.push_back(i);
  }
  StreamJob job;
  job.source = &source;
  job.choices = choices;
  job.method = options.method;
  job.effort = options.effort;
  job.known = options.known;
  job.sink = sink;
  job.journal = options.journal;
  job.reports = &report.tensors;
  job.sums = &sums;
  const bool calibrated = options.windows != nullptr;
  PW_TRY(StreamTensors(calibrated ? WithinCalibration(context) : context, job, rest, nullptr));
  SummariseTensors(&report);
  if (sums.weight.count > 0) report.totals.weight_rel_mse = sums.weight.RelMse();
  if (sums.output_total > 0) report.totals.output_rel_error = sums.output_error / sums.output_total;
  return report;
}

}  // namespace pennyweight
