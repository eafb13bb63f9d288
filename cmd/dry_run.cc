#include "cmd/dry_run.h"

#include <fmt/format.h>

#include <algorithm>

#include "calib/quantize_model.h"
#include "lib/json.h"

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

Result<CostPlan> PlanCost(const Context& context, const WalkInput& input, const std::string& output,
                          uint64_t output_bytes) {
  std::vector<Encoding> encodings;
  for (const Choice& choice : input.choices) {
    const bool known =
        std::find(encodings.begin(), encodings.end(), choice.encoding) != encodings.end();
    if (choice.quantize && !known) encodings.push_back(choice.encoding);
  }
  const bool gptq = input.method == Method::kGptq || input.method == Method::kAuto;
  PW_ASSIGN(CostRates rates,
            ProbeSpeed(context, encodings, input.windows != nullptr, gptq, input.effort));
  const std::vector<std::string>& files = input.model->source->files();
  const size_t slash = output.find_last_not_of('/') == std::string::npos
                           ? std::string::npos
                           : output.rfind('/', output.find_last_not_of('/'));
  ProbeFiles(files.empty() ? std::string() : files.front(),
             slash == std::string::npos ? "." : output.substr(0, slash + 1), output_bytes, &rates);
  return PredictCost(context, input, rates, output_bytes);
}

namespace {

std::string HumanSeconds(double seconds) {
  constexpr double kMinute = 60, kHour = 3600;
  if (seconds < 2 * kMinute) return fmt::format("{:.1f} s", seconds);
  return seconds < 2 * kHour ? fmt::format("{:.0f} min", seconds / kMinute)
                             : fmt::format("{:.1f} h", seconds / kHour);
}

Json CostJson(const CostPlan& cost) {
  Json phases = Json::Object();
  for (const auto& [name, seconds] : cost.phases) {
    phases.Set(std::string(name), Json::Double(seconds));
  }
  Json plan = Json::Object();
  plan.Set("peak_rss_bytes", Json::Unsigned(cost.peak_rss_bytes));
  plan.Set("fits_memory", Json::Bool(cost.fits));
  plan.Set("scratch_bytes", Json::Unsigned(cost.scratch_bytes));
  plan.Set("output_bytes", Json::Unsigned(cost.output_bytes));
  plan.Set("seconds", Json::Double(cost.seconds));
  plan.Set("phases", std::move(phases));
  return plan;
}

std::string CostText(const CostPlan& cost) {
  std::string phases;
  for (const auto& [name, seconds] : cost.phases) {
    phases += fmt::format("{}{} {}", phases.empty() ? "" : ", ", name, HumanSeconds(seconds));
  }
  return fmt::format(
      "about {} ({})\nmemory: up to {}{}; disk: {} for the output, {} beside it "
      "until it is done\n",
      HumanSeconds(cost.seconds), phases, HumanBytes(cost.peak_rss_bytes),
      cost.fits ? "" : ", which is above the limit", HumanBytes(cost.output_bytes),
      HumanBytes(cost.scratch_bytes));
}

}  // namespace

Status PrintPlan(const std::string& output, const Report& report, std::span<const Choice> choices,
                 const CostPlan& cost, Console* console) {
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
  console->Print(CostText(cost));
  if (!console->json()) {
    console->PrintResult(std::string());
    return OkStatus();
  }
  PW_ASSIGN(Json result, Json::Parse(ReportToJson(report)));
  result.Set("plan", CostJson(cost));
  console->PrintResult(result.Dump(2));
  return OkStatus();
}

}  // namespace pennyweight
