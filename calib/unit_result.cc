#include "calib/unit_result.h"

#include <array>
#include <utility>

#include "lib/blob.h"

namespace pennyweight {
namespace {

void Put(const WeightError& error, BlobWriter* to) {
  for (const double value :
       {error.sum_sq, error.sum_sq_hat, error.sum_dot, error.sum_sq_error, error.max_abs_error}) {
    to->Double(value);
  }
  to->Unsigned(static_cast<uint64_t>(error.count));
}

WeightError GetWeightError(BlobReader* from) {
  WeightError error;
  for (double* value : {&error.sum_sq, &error.sum_sq_hat, &error.sum_dot, &error.sum_sq_error,
                        &error.max_abs_error}) {
    *value = from->Double();
  }
  error.count = static_cast<int64_t>(from->Unsigned());
  return error;
}

// The numbers of a report row that the work fills.
template <class Report>  // TensorReport, const or not
auto Numbers(Report& row) {
  return std::array{&row.weight_rel_mse,
                    &row.sqnr_db,
                    &row.max_abs_error,
                    &row.cosine,
                    &row.output_rel_error,
                    &row.output_rel_error_heldout,
                    &row.output_rel_error_rtn,
                    &row.output_rel_error_minmax,
                    &row.damp,
                    &row.seconds};
}

void Put(const TensorReport& row, BlobWriter* to) {
  to->Text(row.method);
  to->Unsigned(row.fallback ? 1 : 0);
  to->Text(row.fallback.value_or(""));
  to->Unsigned(row.tokens ? 1 : 0);
  to->Unsigned(static_cast<uint64_t>(row.tokens.value_or(0)));
  for (const auto* number : Numbers(row)) to->Optional(*number);
}

void Get(BlobReader* from, TensorReport* row) {
  row->method = from->Text();
  const bool fallback = from->Unsigned() != 0;
  std::string why = from->Text();
  row->fallback = fallback ? std::optional<std::string>(std::move(why)) : std::nullopt;
  const bool tokens = from->Unsigned() != 0;
  const auto count = static_cast<int64_t>(from->Unsigned());
  row->tokens.reset();
  if (tokens) row->tokens = count;
  for (auto* number : Numbers(*row)) *number = from->Optional();
}

}  // namespace

std::string PackTile(const TileResult& tile) {
  BlobWriter to;
  Put(tile.error, &to);
  to.Double(tile.seconds);
  to.Unsigned(static_cast<uint64_t>(tile.kept_non_finite));
  return to.bytes();
}

bool UnpackTile(std::string_view bytes, TileResult* tile) {
  BlobReader from(bytes);
  tile->error = GetWeightError(&from);
  tile->seconds = from.Double();
  tile->kept_non_finite = static_cast<int64_t>(from.Unsigned());
  return from.done();
}

std::string PackTensors(const TensorsResult& result, const std::vector<TensorReport>& reports) {
  BlobWriter to;
  Put(result.sums.weight, &to);
  to.Double(result.sums.output_error);
  to.Double(result.sums.output_total);
  to.Unsigned(result.layer ? 1 : 0);
  if (result.layer) {
    to.Unsigned(static_cast<uint64_t>(result.layer->layer));
    to.Optional(result.layer->hidden_rel_error);
    to.Optional(result.layer->hidden_cosine);
    to.Optional(result.layer->hidden_rel_error_rtn);
    to.Text(result.layer->chosen.value_or(""));
    to.Unsigned(result.layer->candidates.size());
    for (const LayerReport::Candidate& candidate : result.layer->candidates) {
      to.Text(candidate.name);
      to.Optional(candidate.hidden_rel_error);
    }
  }
  to.Text(result.folds);
  for (const size_t index : result.tensors) {
    to.Unsigned(index);
    Put(reports[index], &to);
  }
  return to.bytes();
}

bool UnpackTensors(std::string_view bytes, TensorsResult* result,
                   std::vector<TensorReport>* reports) {
  BlobReader from(bytes);
  TensorsResult read;
  read.sums.weight = GetWeightError(&from);
  read.sums.output_error = from.Double();
  read.sums.output_total = from.Double();
  if (from.Unsigned() != 0) {
    LayerReport layer;
    layer.layer = static_cast<int64_t>(from.Unsigned());
    layer.hidden_rel_error = from.Optional();
    layer.hidden_cosine = from.Optional();
    layer.hidden_rel_error_rtn = from.Optional();
    std::string chosen = from.Text();
    if (!chosen.empty()) layer.chosen = std::move(chosen);
    for (uint64_t left = from.Unsigned(); left > 0 && from.ok(); --left) {
      LayerReport::Candidate& candidate = layer.candidates.emplace_back();
      candidate.name = from.Text();
      candidate.hidden_rel_error = from.Optional();
    }
    read.layer = std::move(layer);
  }
  read.folds = from.Text();
  std::vector<TensorReport> rows;  // of read.tensors
  while (from.ok() && !from.done()) {
    const uint64_t index = from.Unsigned();
    if (!from.ok() || index >= reports->size()) return false;
    read.tensors.push_back(index);
    Get(&from, &rows.emplace_back((*reports)[index]));
  }
  if (!from.done()) return false;
  for (size_t i = 0; i < rows.size(); ++i) (*reports)[read.tensors[i]] = std::move(rows[i]);
  *result = std::move(read);
  return true;
}

}  // namespace pennyweight
