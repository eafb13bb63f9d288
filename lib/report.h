// The result structs of quantize and compare, and their exporters. Keys and meanings are API.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/arch/family.h"
#include "lib/tensor.h"

namespace pennyweight {

// One row of tensors[]. An empty optional is null in JSON and empty in CSV: it does not apply.
// All errors are those of the decoded bytes that were handed to the sink.
struct TensorReport {
  std::string name;         // Hugging Face's
  std::string output_name;  // in the output file
  std::optional<int64_t> layer;
  Role role = Role::kOther;
  std::optional<int64_t> expert;
  Shape shape;
  std::string from;  // encodings
  std::string to;
  uint64_t bytes_in = 0;
  uint64_t bytes = 0;
  double bits_per_weight = 0;
  std::string method;                   // minmax, rtn, gptq; "copy" or "cast" when left alone
  std::optional<std::string> fallback;  // why it is not what was asked for
  std::optional<double> weight_rel_mse;  // |W - W'|^2 / |W|^2
  std::optional<double> sqnr_db;         // -10 log10 of it
  std::optional<double> max_abs_error;
  std::optional<double> cosine;
  // When calibrated: on `tokens` rows of the linear's own input.
  std::optional<int64_t> tokens;
  // tr(dW H dW^T) / tr(W H W^T): what the change of this matrix does to its output. gptq moves
  // weights to undo what layers before changed, and that counts here; held-out errors know of it:
  // |X0 W^T - X W'^T|^2 / |X0 W^T|^2 with the inputs X0 in the original model, X in the quantized
  // one, of tokens that nothing was fitted to.
  std::optional<double> output_rel_error;
  std::optional<double> output_rel_error_heldout;
  std::optional<double> output_rel_error_rtn;      // held out: what rtn would have given
  std::optional<double> output_rel_error_minmax;   // held out: what minmax would have given
  std::optional<double> damp;                      // added to the Hessian's diagonal, of its mean
  std::optional<double> seconds;
};

// One row of layers[]: the decoder layer's output on held-out tokens, quantized stream against
// original stream.
struct LayerReport {
  // A way to quantize the layer that was tried, and the hidden_rel_error it would have given.
  struct Candidate {
    std::string name;  // "rtn", "awq+gptq"
    std::optional<double> hidden_rel_error;
  };
  int64_t layer = 0;
  std::optional<double> hidden_rel_error;
  std::optional<double> hidden_cosine;
  std::optional<double> hidden_rel_error_rtn;
  uint64_t bytes = 0;
  double bits_per_weight = 0;
  std::optional<std::string> worst_tensor;
  std::vector<Candidate> candidates;  // in the order of trying; empty when nothing was compared
  std::optional<std::string> chosen;  // the name of what was kept; none without calibration
};

struct ReportTotals {
  uint64_t bytes_in = 0;
  uint64_t bytes_out = 0;
  double bits_per_weight = 0;
  double seconds = 0;
  uint64_t peak_rss_bytes = 0;
  std::optional<double> weight_rel_mse;    // over all weights: sum of errors / sum of squares
  std::optional<double> output_rel_error;  // over all calibrated linears, likewise
  // The instructions that a calibrated run's products used (lib/linalg.h), on which bytes depend.
  std::optional<std::string> compute_path = std::nullopt;
};

struct Report {
  ReportTotals totals;
  std::vector<LayerReport> layers;
  std::vector<TensorReport> tensors;
};

// How many rows an expert of a mixture learned from, in calibration: the least of its matrices.
struct ExpertCoverage {
  int64_t layer = 0;
  int64_t expert = 0;
  int64_t tokens = 0;
};
// Of the experts' matrices that were calibrated, by layer and expert; empty for other models.
std::vector<ExpertCoverage> CoverageOf(const Report& report);

// The `result` object of --json: {"totals", "layers", "coverage", "tensors"}; two-space indents.
std::string ReportToJson(const Report& report);
// tensors[] as CSV (RFC 4180), header line first; layers[] follow after an empty line.
std::string ReportToCsv(const Report& report);

}  // namespace pennyweight
