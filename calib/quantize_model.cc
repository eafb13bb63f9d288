#include "calib/quantize_model.h"

#include <fmt/format.h>

#include <algorithm>

#include "calib/layer_walk.h"

namespace pennyweight {
namespace {

// What a row ranks by when the worst tensor of a layer is named.
double Badness(const TensorReport& t) {
  if (t.output_rel_error_heldout) return *t.output_rel_error_heldout;
  if (t.output_rel_error) return *t.output_rel_error;
  return t.weight_rel_mse.value_or(0);
}

Result<std::vector<LayerReport>> Calibrate(const Context& context, const WalkInput& input,
                                           const std::string& scratch_dir) {
  PW_ASSIGN(const std::unique_ptr<LayerWalk> walk, LayerWalk::Create(context, input, scratch_dir));
  PW_TRY(walk->Embed(context));
  const int64_t layers = input.model->config->layers;
  std::vector<LayerReport> reports;
  if (context.progress) context.progress->Phase("quantizing layers", layers);
  for (int64_t layer = 0; layer < layers; ++layer) {
    PW_ASSIGN(LayerReport report, walk->Layer(context, layer));
    reports.push_back(std::move(report));
    if (context.progress) context.progress->Advance(layer + 1);
  }
  PW_TRY(walk->Head(context));
  return reports;
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
  if (options.windows != nullptr) {
    WalkInput input;
    input.model = &model;
    input.windows = options.windows;
    input.choices = choices;
    input.method = options.method;
    input.sink = sink;
    input.reports = &report.tensors;
    input.done = &done;
    input.sums = &sums;
    PW_ASSIGN(report.layers, Calibrate(context, input, options.scratch_dir));
  } else {
    int64_t layers = 0;
    for (const TensorReport& t : report.tensors)
      layers = std::max(layers, t.layer.value_or(-1) + 1);
    for (int64_t i = 0; i < layers; ++i) report.layers.emplace_back().layer = i;
  }
  if (context.progress) {
    context.progress->Phase("writing tensors", static_cast<int64_t>(tensors.size()));
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!done[i]) {
      PW_TRY(StreamTensor(context, *model.source, i, choices[i], options.method, sink,
                          &report.tensors[i], &sums, nullptr));
    }
    if (context.progress) context.progress->Advance(static_cast<int64_t>(i + 1));
  }
  SummariseTensors(&report);
  if (sums.weight.count > 0) report.totals.weight_rel_mse = sums.weight.RelMse();
  if (sums.output_total > 0) report.totals.output_rel_error = sums.output_error / sums.output_total;
  return report;
}

}  // namespace pennyweight
