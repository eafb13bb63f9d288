// The awq search on a layer of the walk: which tokens it sees, and how matrices are rounded for it.
#pragma once

#include "calib/awq_search.h"
#include "calib/walk_input.h"
#include "calib/walk_stream.h"
#include "calib/walk_tokens.h"
#include "lib/context.h"
#include "lib/result.h"

namespace pennyweight {

// Tokens of calibration windows, and of held-out ones, that the search sees at most: whole windows
// from the first on.
inline constexpr int64_t kFoldTokens = 1024;
inline constexpr int64_t kFoldHeldOutTokens = 2048;

// Searches the folds of `layer` under the states that enter it in the quantized model. `original`:
// the layer's weights without folds. Errors: those of SearchAwq.
Result<LayerFolds> FindLayerFolds(const Context& context, const WalkInput& input, int64_t layer,
                                  const LayerWeights& original, const WalkTokens& tokens,
                                  const WalkStream& quantized);

}  // namespace pennyweight
