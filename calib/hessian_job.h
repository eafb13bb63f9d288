// gptq by the Hessians of a file: the model is not run, and no matrix knows of the others.
#pragma once

#include <span>
#include <vector>

#include "calib/known_statistics.h"
#include "calib/matrix_job.h"
#include "lib/context.h"
#include "lib/report.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"
#include "lib/tensor_source.h"
#include "quant/effort.h"
#include "quant/mix.h"

namespace pennyweight {

struct HessianJob {
  const TensorSource* source = nullptr;
  std::span<const Choice> choices;         // parallel to the source's tensors
  const KnownStatistics* known = nullptr;  // with Hessians
  Effort effort = Effort::kNormal;
  TensorSink* sink = nullptr;                    // has begun with the same tensors
  std::vector<TensorReport>* reports = nullptr;  // parallel to the tensors
  std::vector<char>* done = nullptr;             // per tensor; set when it was written
  ErrorSums* sums = nullptr;
};

// Quantizes all matrices that read input `input` of the statistics and are to be quantized; the
// Hessian is read and factored once. There are no held-out rows, so no held-out errors.
// Errors: kMemory naming what is needed, those of KnownStatistics::Hessian and QuantizeMatrix.
Status QuantizeByHessian(const Context& context, const HessianJob& job, size_t input);

}  // namespace pennyweight
