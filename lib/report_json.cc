// The result of quantize and compare as JSON. Keys and their order are API.
#include <optional>
#include <string>

#include "lib/json.h"
#include "lib/report.h"

namespace pennyweight {
namespace {

// An empty optional is null; so is a number that is not finite.
Json Optional(const std::optional<double>& value) { return value ? Json::Double(*value) : Json(); }
Json Optional(const std::optional<int64_t>& value) {
  return value ? Json::Integer(*value) : Json();
}
Json Optional(const std::optional<std::string>& value) {
  return value ? Json::String(*value) : Json();
}
// What a command has no value for stays empty: null too.
Json TextOrNull(const std::string& text) { return text.empty() ? Json() : Json::String(text); }

Json TotalsToJson(const ReportTotals& totals) {
  Json row = Json::Object();
  row.Set("bytes_in", Json::Unsigned(totals.bytes_in));
  row.Set("bytes_out", Json::Unsigned(totals.bytes_out));
  row.Set("bits_per_weight", Json::Double(totals.bits_per_weight));
  row.Set("seconds", Json::Double(totals.seconds));
  row.Set("peak_rss_bytes", Json::Unsigned(totals.peak_rss_bytes));
  row.Set("weight_rel_mse", Optional(totals.weight_rel_mse));
  row.Set("output_rel_error", Optional(totals.output_rel_error));
  row.Set("compute_path", Optional(totals.compute_path));
  return row;
}

Json LayerToJson(const LayerReport& layer) {
  Json row = Json::Object();
  row.Set("layer", Json::Integer(layer.layer));
  row.Set("hidden_rel_error", Optional(layer.hidden_rel_error));
  row.Set("hidden_cosine", Optional(layer.hidden_cosine));
  row.Set("hidden_rel_error_rtn", Optional(layer.hidden_rel_error_rtn));
  row.Set("bytes", Json::Unsigned(layer.bytes));
  row.Set("bits_per_weight", Json::Double(layer.bits_per_weight));
  row.Set("worst_tensor", Optional(layer.worst_tensor));
  Json candidates = Json::Array();
  for (const LayerReport::Candidate& candidate : layer.candidates) {
    Json entry = Json::Object();
    entry.Set("name", Json::String(candidate.name));
    entry.Set("hidden_rel_error", Optional(candidate.hidden_rel_error));
    candidates.Push(std::move(entry));
  }
  row.Set("candidates", std::move(candidates));
  row.Set("chosen", Optional(layer.chosen));
  return row;
}

Json TensorToJson(const TensorReport& tensor) {
  Json shape = Json::Array();
  for (const int64_t dimension : tensor.shape) shape.Push(Json::Integer(dimension));
  Json row = Json::Object();
  row.Set("name", Json::String(tensor.name));
  row.Set("output_name", TextOrNull(tensor.output_name));
  row.Set("layer", Optional(tensor.layer));
  row.Set("role", Json::String(std::string(RoleName(tensor.role))));
  row.Set("expert", Optional(tensor.expert));
  row.Set("shape", std::move(shape));
  row.Set("from", TextOrNull(tensor.from));
  row.Set("to", TextOrNull(tensor.to));
  row.Set("bytes_in", Json::Unsigned(tensor.bytes_in));
  row.Set("bytes", Json::Unsigned(tensor.bytes));
  row.Set("bits_per_weight", Json::Double(tensor.bits_per_weight));
  row.Set("method", TextOrNull(tensor.method));
  row.Set("fallback", Optional(tensor.fallback));
  row.Set("weight_rel_mse", Optional(tensor.weight_rel_mse));
  row.Set("sqnr_db", Optional(tensor.sqnr_db));
  row.Set("max_abs_error", Optional(tensor.max_abs_error));
  row.Set("cosine", Optional(tensor.cosine));
  row.Set("tokens", Optional(tensor.tokens));
  row.Set("output_rel_error", Optional(tensor.output_rel_error));
  row.Set("output_rel_error_heldout", Optional(tensor.output_rel_error_heldout));
  row.Set("output_rel_error_rtn", Optional(tensor.output_rel_error_rtn));
  row.Set("output_rel_error_minmax", Optional(tensor.output_rel_error_minmax));
  row.Set("damp", Optional(tensor.damp));
  row.Set("seconds", Optional(tensor.seconds));
  return row;
}

}  // namespace

std::string ReportToJson(const Report& report) {
  Json layers = Json::Array();
  for (const LayerReport& layer : report.layers) layers.Push(LayerToJson(layer));
  Json tensors = Json::Array();
  for (const TensorReport& tensor : report.tensors) tensors.Push(TensorToJson(tensor));
  Json result = Json::Object();
  result.Set("totals", TotalsToJson(report.totals));
  result.Set("layers", std::move(layers));
  Json coverage = Json::Array();
  for (const ExpertCoverage& row : CoverageOf(report)) {
    Json entry = Json::Object();
    entry.Set("layer", Json::Integer(row.layer));
    entry.Set("expert", Json::Integer(row.expert));
    entry.Set("tokens", Json::Integer(row.tokens));
    coverage.Push(std::move(entry));
  }
  result.Set("coverage", std::move(coverage));
  result.Set("tensors", std::move(tensors));
  return result.Dump(2);
}

}  // namespace pennyweight
