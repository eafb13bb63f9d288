// What a calibrated walk works on.
#pragma once

#include <span>
#include <vector>

#include "calib/matrix_job.h"
#include "calib/windows.h"
#include "lib/model.h"
#include "lib/report.h"
#include "lib/tensor_sink.h"
#include "quant/effort.h"
#include "quant/mix.h"

namespace pennyweight {

// Everything outlives the walk.
struct WalkInput {
  const Model* model = nullptr;  // with family and config
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
