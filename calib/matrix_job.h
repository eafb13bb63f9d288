// Quantizes one matrix under its own input's statistics: makes the candidates, measures each on
// held-out activations, and keeps one.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "calib/input_statistics.h"
#include "lib/context.h"
#include "lib/report.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"
#include "lib/tensor_source.h"
#include "quant/effort.h"
#include "quant/gptq_plan.h"
#include "quant/metrics.h"
#include "quant/mix.h"

namespace pennyweight {

// How the codes of weights are chosen; kAwq: rtn behind the awq rewrite; kAuto: what serves each
// layer best, of one matrix gptq where its held-out error does not rise, else rtn.
enum class Method : uint8_t { kMinMax, kRtn, kGptq, kAwq, kAuto };

std::string_view MethodName(Method method);
// nullopt when no such method.
std::optional<Method> FindMethod(std::string_view name);

// Rows worked on at a time for a matrix of `cols` columns: a multiple of TensorSink::kTileRows that
// depends on the shape only.
int64_t TileRows(int64_t cols);

// The same where each tile is a matrix product's share: enough rows for all threads of a large
// machine, at the price of memory. At least TileRows(cols).
int64_t JobRows(int64_t cols);

// A matrix in encoded tiles of JobRows rows.
struct EncodedMatrix {
  std::vector<EncodedTensor> tiles;
  void Decode(float* out) const;  // [rows, cols]
  int64_t rows() const;
};

struct MatrixResult {
  EncodedMatrix chosen;
  EncodedMatrix rtn;  // empty when rtn was chosen, or when it was not wanted
};

// The error fields of a report row.
void FillWeightError(const WeightError& error, TensorReport* report);

// Sums over several matrices, for a report's totals.
struct ErrorSums {
  WeightError weight;
  double output_error = 0;  // sum of tr(dW H dW^T)
  double output_total = 0;  // sum of tr(W H W^T)
  void Merge(const ErrorSums& other);
};

// gptq's plan of one input: made for the first matrix that reads it, and kept for all others of the
// same type.
class InputPlan {
 public:
  // For the factor of `statistics`, always the same and factored; valid until the next call.
  // Errors: those of GptqPlan::Make; `encoding` is one that gptq takes.
  Result<const GptqPlan*> For(const Context& context, const InputStatistics& statistics,
                              const Encoding& encoding, Effort effort);

 private:
  std::unique_ptr<const GptqPlan> plan_;
};

struct MatrixJob {
  const TensorSource* source = nullptr;
  size_t index = 0;  // in the source, and in the sink
  const Choice* choice = nullptr;
  Method method = Method::kAuto;
  Effort effort = Effort::kNormal;
  const InputStatistics* statistics = nullptr;
  bool factored = false;      // statistics->r() is valid; else gptq falls back to rtn
  InputPlan* plan = nullptr;  // of these statistics; nullptr: the matrix has one of its own
  bool keep_rtn = true;       // what rtn gave is wanted beside what was chosen
  // Where the source's matrix is the original one times scales of its rows and columns: those, so
  // that the error of weights is told in the original's coordinates. Else empty.
  std::span<const float> row_scale, col_scale;
};

// gptq aims at W + a W C rather than W where the statistics have a correction C; a in [0, 1] is
// what serves the held-out rows best. Fills the error fields, method, fallback and seconds of
// `report`; adds to `sums`. Errors: those of the source and the methods; kInterrupted.
Result<MatrixResult> QuantizeMatrix(const Context& context, const MatrixJob& job,
                                    TensorReport* report, ErrorSums* sums);

// Hands the tiles of matrix `index` to a sink.
Status WriteTiles(std::span<const EncodedTensor> tiles, size_t index, TensorSink* sink);

}  // namespace pennyweight
