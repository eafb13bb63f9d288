// The quantization_config of compressed-tensors: which modules hold which numbers. Only keys that
// loaders old and new accept: they refuse those they do not know.
#pragma once

#include <vector>

#include "lib/json.h"
#include "lib/model.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"

namespace pennyweight {

// Whether the layout can hold the tensor: plain as it is; as the weight of a linear module integers
// of 2 to 8 bits, fp8_e4m3 with scales per tensor, row or block, NVFP4 and MXFP4.
// Errors: kUnsupported with a hint.
Status CheckCompressedTensors(const Model& model, const OutputTensor& tensor);

// Tensors of one kind form a config group. The group with the most tensors (the first of equals)
// gets the target "Linear" and stands last; the others name their modules. Where groups have
// different formats each names its own, and the whole is "mixed-precision".
// Linear modules left alone, and a head that is tied away, are under "ignore".
// Precondition: at least one tensor is not plain, and CheckCompressedTensors holds for all.
Json CompressedTensorsConfig(const Model& model, const std::vector<OutputTensor>& tensors);

}  // namespace pennyweight
