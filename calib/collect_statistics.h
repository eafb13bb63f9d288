// Runs the original model once over a text and adds up what every linear is given.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "calib/run_model.h"
#include "calib/windows.h"
#include "lib/context.h"
#include "lib/result.h"
#include "lib/statistics.h"

namespace pennyweight {

struct CollectOptions {
  bool hessians = false;
  bool head = false;         // the head's input too, where the model has a head of its own
  bool all_experts = false;  // every token is run through every expert, to be watched there
  std::string scratch_dir;   // where hidden states go that do not fit context.memory_limit
};

// Given one input when all tokens have been through it, in the order of the model. `hessian`: with
// CollectOptions::hessians the upper triangle of sum x x^T, [width, width]; else empty. It may be
// changed, and is gone when the call returns.
using InputCallback = std::function<Status(InputSums sums, std::span<float> hessian)>;

// One decoder layer is in memory at a time, and is run once over all windows; with Hessians again
// for those that did not fit the memory limit. Sums are in double; neither threads nor memory
// change them. Errors: kMemory naming what is needed, kNonFinite naming the matrix, kInterrupted,
// kTokenizer, those of LoadWeight and of the callback.
Status CollectStatistics(const Context& context, const RunnableModel& model, const Windows& windows,
                         const CollectOptions& options, const InputCallback& on_input);

// Adds rows x[rows, width] to the sums of an input of that width, but no tokens.
void AddRows(const Context& context, const float* x, int64_t rows, InputSums* sums);

}  // namespace pennyweight
