// What types whose scales span rows ask of those who hand a tensor over in tiles of rows: where
// tiles may begin, and a first reading of the tensor for the numbers that belong to all of it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "lib/context.h"
#include "lib/encoding.h"
#include "lib/result.h"
#include "lib/tensor_source.h"
#include "quant/grid.h"

namespace pennyweight {

// Rows of a tile, near `rows`: a multiple of TensorSink::kTileRows at which neither a block of rows
// nor a codebook's block of values is cut.
int64_t AlignTileRows(int64_t rows, const Encoding& encoding, int64_t cols);

// The tensor's own scale (quant/encode_scaled.h); nothing, and nothing is read, where the encoding
// has none. Errors: those of ReadFloatRows and FindTensorScale; kInterrupted.
Result<std::optional<float>> ReadTensorScale(const Context& context, const TensorSource& source,
                                             size_t index, const Encoding& encoding,
                                             std::span<const float> importance, ScaleSearch search);

}  // namespace pennyweight
