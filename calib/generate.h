// Greedy continuation of a prompt, for small models and for comparing with other programs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "calib/run_model.h"
#include "lib/context.h"
#include "lib/result.h"

namespace pennyweight {

struct NextToken {
  int32_t id = 0;
  double probability = 0;
};

struct Generation {
  std::vector<int32_t> ids;    // new ones only
  std::vector<NextToken> top;  // the likeliest tokens behind the prompt, best first
};

inline constexpr size_t kTopTokens = 20;

// Appends the likeliest token (the lower id on ties) up to `count` times; ends before an id of
// `stop`. The whole prefix is run again for each token; weights stay in memory between tokens when
// they fit half of context.memory_limit. Precondition: the prompt is not empty.
// Errors: those of RunModel, kNonFinite.
Result<Generation> Generate(const Context& context, const RunnableModel& model,
                            std::span<const int32_t> prompt, int64_t count,
                            std::span<const int32_t> stop);

}  // namespace pennyweight
