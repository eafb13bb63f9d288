// Which weights of a model can become GGUF blocks without changing a value.
#pragma once

#include <vector>

#include "lib/context.h"
#include "lib/model.h"
#include "lib/result.h"
#include "quant/mix.h"

namespace pennyweight {

// Reads every tensor whose choice is a block that it is not stored as, and tries. One whose values
// would not be the same is given the plain dtype `otherwise`, and its fallback says why.
// Errors: those of reading; kInterrupted.
Status CheckRepacks(const Context& context, const Model& model, DType otherwise,
                    std::vector<Choice>* choices);

}  // namespace pennyweight
