// What `quantize` would write, without a byte of the weights: every tensor's choice and the exact
// size of the output.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "calib/cost_model.h"
#include "calib/matrix_job.h"
#include "cmd/console.h"
#include "lib/model.h"
#include "lib/report.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"
#include "quant/mix.h"

namespace pennyweight {

// The report of the run with all measured fields empty. `sink` measures (SinkOptions::measure) and
// has not begun. Errors: those of the sink, as the run would meet them before its work.
Result<Report> PlanOutput(const Model& model, std::span<const Choice> choices,
                          const std::vector<OutputTensor>& outputs, Method method, bool calibrated,
                          TensorSink* sink);

// What it takes on this machine, by a probe of about a second. `input` as of PredictCost.
// Errors: those of encoding random numbers: none.
Result<CostPlan> PlanCost(const Context& context, const WalkInput& input, const std::string& output,
                          uint64_t output_bytes);

// The table of it with the exact size and the cost, or the document of --json.
Status PrintPlan(const std::string& output, const Report& report, std::span<const Choice> choices,
                 const CostPlan& cost, Console* console);

}  // namespace pennyweight
