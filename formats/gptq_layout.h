// What the sinks of GPTQ and AWQ share: which types and shapes they hold, and how their parts lie.
// Both have the inputs along rows of words and the outputs along columns: a tile of rows of a
// weight is a strip of columns of every part.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/parts_sink.h"
#include "lib/encoding.h"
#include "lib/json.h"
#include "lib/model.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"

namespace pennyweight {

// Whether `layout` holds the tensor. Errors: kUnsupported with a hint.
Status CheckGptqLayout(std::string_view layout, const Model& model, const OutputTensor& tensor);

// The type that all weights which are not plain have: the files have one place to say it.
// Precondition: one is not plain. Errors: kUnsupported, naming two that differ.
Result<IntegerSpec> OnlyIntegerType(std::string_view layout,
                                    const std::vector<OutputTensor>& tensors);

// Errors: kInvalidTensor when a code or zero point needs more bits than it has: it would spill into
// its neighbour.
Status CheckCodes(const EncodedTensor& tile);

// Writes a tile's scales [rows, groups] into columns [row, row + tile.rows) of a part [groups, n].
Status PutScalesByGroup(size_t part, int64_t n, int64_t row, const EncodedTensor& tile,
                        const PutPart& put);

}  // namespace pennyweight
