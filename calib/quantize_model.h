// The main job below the command line: every tensor of a model through its choice, method and
// sink, and the report of what that cost.
#pragma once

#include <span>
#include <string>

#include "calib/known_statistics.h"
#include "calib/matrix_job.h"
#include "calib/windows.h"
#include "lib/context.h"
#include "lib/fold_record.h"
#include "lib/journal.h"
#include "lib/model.h"
#include "lib/report.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"
#include "quant/effort.h"
#include "quant/mix.h"

namespace pennyweight {

struct QuantizeOptions {
  Method method = Method::kAuto;
  const Windows* windows = nullptr;  // null: no calibration
  Effort effort = Effort::kNormal;
  bool all_experts = false;  // calibration shows every token to every expert
  // What files tell of the inputs; may be null. Weighs rtn; with Hessians, and without windows, it
  // is what gptq works by, matrix by matrix. Of the model's source.
  const KnownStatistics* known = nullptr;
  std::string scratch_dir;  // for hidden states that do not fit the memory limit
  // Of the same output; may be null. What a stopped run finished is not done again: single tensors,
  // and of a calibrated run whole layers, behind which the hidden states are kept beside it.
  Journal* journal = nullptr;
  // Every layer's folds are appended as they are decided; may be null.
  FoldRecord* folds = nullptr;
};

// `sink` has begun with one OutputTensor per tensor of the source, in its order; choices are
// parallel to that. Every tensor is written; the sink is not sealed. totals.bytes_out, seconds and
// peak_rss_bytes are the caller's to fill.
// Errors: those of the source, the sink and the methods; kMemory; kInterrupted.
Result<Report> QuantizeModel(const Context& context, const Model& model,
                             std::span<const Choice> choices, const QuantizeOptions& options,
                             TensorSink* sink);

// The part of a report row that is known before any weight is read.
TensorReport DescribeTensor(const Model& model, const TensorInfo& info);

// One such row per tensor, with what the sink (which has begun) makes of each choice.
std::vector<TensorReport> DescribeOutput(const Model& model, std::span<const Choice> choices,
                                         const TensorSink& sink);

// Fills layers[].bytes, bits_per_weight and worst_tensor, and totals that sum over tensors.
void SummariseTensors(Report* report);

}  // namespace pennyweight
