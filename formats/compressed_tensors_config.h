// The quantization_config of compressed-tensors' pack-quantized layout: which modules hold which
// integers. Only keys that loaders old and new accept: they refuse those they do not know.
#pragma once

#include <vector>

#include "lib/json.h"
#include "lib/model.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"

namespace pennyweight {

// Whether the layout can hold the tensor: plain as it is, integers of 4 or 8 bits as the weight of
// a linear module. Errors: kUnsupported with a hint.
Status CheckPackQuantized(const Model& model, const OutputTensor& tensor);

// Tensors of one IntegerSpec form a config group. The group with the most tensors (the first of
// equals) gets the target "Linear" and stands last; the others name their modules.
// Linear modules left alone, and a head that is tied away, are under "ignore".
// Precondition: at least one tensor is an integer, and CheckPackQuantized holds for all.
Json PackQuantizedConfig(const Model& model, const std::vector<OutputTensor>& tensors);

}  // namespace pennyweight
