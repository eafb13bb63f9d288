#include "cmd/dry_run.h"

#include <fmt/format.h>

#include <algorithm>

#include "calib/quantize_model.h"

namespace pennyweight {

Result<Report> PlanOutput(const Model& model, std::span<const Choice> choices,
                          const std::vector<OutputTensor>& outputs, Method method, bool calibrated,
                          TensorSink* sink) {
  PW_TRY(sink->Begin(outputs));
  Report report;
  report.tensors = DescribeOutput(model, choices, *sink);
  int64_t layers = 0;
  for (size_t i = 0; i < choices.size(); ++i) {
    TensorReport& row = report.tensors[i];
    layers = std::max(layers, row.layer.value_or(-1) + 1);
    const bool measured = calibrated && row.role != Role::kEmbedding;
    if (!choices[i].quantize) {
      row.method = row.from == row.to ? "copy" : "cast";
    } else if (method == Method::kMinMax || measured) {
      row.method = MethodName(method);
    } else {
      row.method = MethodName(Method::kRtn);
    }
  }
  for (int64_t i = 0; i < layers; ++i) report.layers.emplace_back().layer = i;
  SummariseTensors(&report);
  for (LayerReport& layer : report.layers)
    layer.worst_tensor.reset();  // nothing is known of errors
  PW_TRY(sink->Seal());
  report.totals.bytes_out = sink->TotalBytes();
  return report;
}

void PrintPlan(const std::string& output, const Report& report, std::span<const Choice> choices,
               Console* console) {
  Table table{
      {"tensor", "from", "to", "shape", "bytes", "why"}, {}, {true, true, true, true, false, true}};
  for (size_t i = 0; i < choices.size(); ++i) {
    const TensorReport& row = report.tensors[i];
    table.rows.push_back({row.name, row.from, row.to, ShapeToString(row.shape),
                          fmt::format("{}", row.bytes), row.fallback.value_or(choices[i].why)});
  }
  console->Print(table.ToString() +
                 fmt::format("\n{}: {} bytes ({}), {:.2f} bits per weight; nothing was written\n",
                             output, report.totals.bytes_out, HumanBytes(report.totals.bytes_out),
                             report.totals.bits_per_weight));
  console->PrintResult(console->json() ? ReportToJson(report) : std::string());
}

}  // namespace pennyweight
