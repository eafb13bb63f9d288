// What a quantization will take before it is begun: memory, room on the disk, and time, from the
// model's shapes, what was chosen for its tensors, and how fast this machine is.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "calib/cost_probe.h"
#include "calib/layer_walk.h"
#include "lib/context.h"

namespace pennyweight {

struct CostPlan {
  uint64_t peak_rss_bytes = 0;
  bool fits = true;            // into the memory limit
  uint64_t scratch_bytes = 0;  // beside the output, while it is made
  uint64_t output_bytes = 0;
  double seconds = 0;
  // In the order of the work; names are API.
  std::vector<std::pair<std::string_view, double>> phases;
};

// `input`: of the walk, with sink and everything behind it null; windows are null for a run that is
// not calibrated, of which only model, choices, method and effort count. `output_bytes`: of the
// finished output. Operations are those of calib/layer_walk.cc and calib/matrix_job.cc; the
// overhead of small models (under a millisecond a step) is not in them.
CostPlan PredictCost(const Context& context, const WalkInput& input, const CostRates& rates,
                     uint64_t output_bytes);

}  // namespace pennyweight
