// Hugging Face's orientation for tensors whose stored form has it otherwise.
#pragma once

#include <memory>

#include "lib/tensor_source.h"

namespace pennyweight {

// Takes over `source`. A tensor that is marked `transposed` [.., R, C] is listed as plain `dtype`
// [.., C, R] and decoded on the way; all others pass as they are. The last matrices are kept
// decoded: memory is that of two matrices (for a stack of experts: two experts).
// Without such tensors `source` itself is given back.
std::unique_ptr<TensorSource> MakeCanonical(std::unique_ptr<TensorSource> source, DType dtype);

}  // namespace pennyweight
