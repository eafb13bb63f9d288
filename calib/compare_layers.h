// Two models on the same tokens, layer by layer: where their hidden states part.
#pragma once

#include <string>
#include <vector>

#include "calib/windows.h"
#include "lib/context.h"
#include "lib/model.h"
#include "lib/report.h"
#include "lib/result.h"

namespace pennyweight {

// Fills layer, hidden_rel_error and hidden_cosine of each decoder layer: the other's hidden states
// against the original's, over all tokens. Both have the same family and hidden size.
// Errors: kConfigInvalid when they differ in that; those of LoadLayer; kInterrupted.
Result<std::vector<LayerReport>> CompareLayers(const Context& context, const Model& original,
                                               const Model& other, const Windows& windows,
                                               const std::string& scratch_dir);

}  // namespace pennyweight
