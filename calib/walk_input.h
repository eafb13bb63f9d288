// What a calibrated walk works on.
#pragma once

#include <span>
#include <vector>

#include "calib/matrix_job.h"
#include "calib/windows.h"
#include "lib/fold_record.h"
#include "lib/folded_source.h"
#include "lib/model.h"
#include "lib/report.h"
#include "lib/tensor_sink.h"
#include "quant/effort.h"
#include "quant/mix.h"

namespace pennyweight {

// gptq makes up for what the quantized layers before a matrix changed: that takes the original
// model's activations on all tokens, beside those of the quantized one.
inline bool Corrects(Method method) { return method == Method::kGptq || method == Method::kAuto; }

// Everything outlives the walk.
struct WalkInput {
  const Model* model = nullptr;    // with family and config; its source is not read:
  FoldedSource* source = nullptr;  // the same tensors; the walk sets folds
  const Windows* windows = nullptr;
  std::span<const Choice> choices;  // per tensor of the source
  Method method = Method::kAuto;
  Effort effort = Effort::kNormal;
  bool all_experts = false;  // every expert learns from every token
  TensorSink* sink = nullptr;
  std::vector<TensorReport>* reports = nullptr;  // per tensor; error fields are filled
  std::vector<char>* done = nullptr;             // per tensor; set when it was written
  ErrorSums* sums = nullptr;
};

}  // namespace pennyweight
