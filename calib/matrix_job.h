// Quantizes one matrix under its own input's statistics: makes the candidates, measures each on
// held-out activations, keeps one, and writes it.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "calib/input_statistics.h"
#include "lib/context.h"
#include "lib/report.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"
#include "lib/tensor_source.h"
#include "quant/metrics.h"
#include "quant/mix.h"

namespace pennyweight {

// How the codes of weights are chosen; kAuto: gptq where the model can be run and held-out error
// does not rise, else rtn.
enum class Method : uint8_t { kMinMax, kRtn, kGptq, kAuto };

std::string_view MethodName(Method method);
// nullopt when no such method.
std::optional<Method> FindMethod(std::string_view name);

// Rows worked on at a time for a matrix of `cols` columns: a multiple of TensorSink::kTileRows that
// depends on the shape only.
int64_t TileRows(int64_t cols);

// A matrix in encoded tiles of TileRows rows.
struct EncodedMatrix {
  std::vector<EncodedTensor> tiles;
  void Decode(float* out) const;  // [rows, cols]
  int64_t rows() const;
};

struct MatrixResult {
  EncodedMatrix chosen;
  EncodedMatrix rtn;  // empty when rtn was chosen, or when the matrix was not quantized
};

// The error fields of a report row.
void FillWeightError(const WeightError& error, TensorReport* report);

// Sums over several matrices, for a report's totals.
struct ErrorSums {
  WeightError weight;
  double output_error = 0;  // sum of tr(dW H dW^T)
  double output_total = 0;  // sum of tr(W H W^T)
};

struct MatrixJob {
  const TensorSource* source = nullptr;
  size_t index = 0;  // in the source, and in the sink
  const Choice* choice = nullptr;
  Method method = Method::kAuto;
  Effort effort = Effort::kNormal;
  const InputStatistics* statistics = nullptr;
  bool factored = false;  // statistics->r() is valid; else gptq falls back to rtn
};

// gptq aims at W + a W C rather than W where the statistics have a correction C; a in [0, 1] is
// what serves the held-out rows best. Fills the error fields, method, fallback and seconds of
// `report`; adds to `sums`.
Result<MatrixResult> QuantizeMatrix(const Context& context, const MatrixJob& job, TensorSink* sink,
                                    TensorReport* report, ErrorSums* sums);

}  // namespace pennyweight
