// Tensors that need no calibration: cast, minmax or rtn, tile by tile.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "calib/known_statistics.h"
#include "calib/matrix_job.h"
#include "lib/context.h"
#include "lib/journal.h"
#include "lib/report.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"
#include "lib/tensor_source.h"
#include "quant/effort.h"
#include "quant/mix.h"

namespace pennyweight {

struct StreamJob {
  const TensorSource* source = nullptr;
  std::span<const Choice> choices;  // parallel to the source's tensors
  Method method = Method::kRtn;     // gptq and auto become rtn
  Effort effort = Effort::kNormal;
  const KnownStatistics* known = nullptr;        // weighs rtn; of the same source; may be null
  TensorSink* sink = nullptr;                    // has begun with the same tensors
  Journal* journal = nullptr;                    // may be null: no record of single tiles
  std::vector<TensorReport>* reports = nullptr;  // parallel to the tensors
  ErrorSums* sums = nullptr;
};

// Given decoded rows [row, row + rows) that were written; one call at a time, rows in any order.
using RowsCallback = std::function<Status(int64_t row, int64_t rows, const float* decoded)>;

// Writes tensors `which` of the source; `on_rows` may be null. Fills method, error fields and
// seconds of their reports, and adds to `sums`. Results do not depend on context.threads.
// Errors: those of the source, the sink, QuantizeRtn and WorkOnTiles; kNonFinite names the row.
Status StreamTensors(const Context& context, const StreamJob& job, std::span<const size_t> which,
                     const RowsCallback& on_rows);

// The context of such work in a calibrated run, whose memory was reckoned before it began: few
// threads, no check of the limit against the run's own peak, no progress of its own.
Context WithinCalibration(const Context& context);

}  // namespace pennyweight
