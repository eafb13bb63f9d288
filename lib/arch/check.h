// The tensors of a model against its family and configuration.
#pragma once

#include <vector>

#include "lib/finding.h"
#include "lib/model.h"

namespace pennyweight {

// What the configuration says of a role: [rows, cols], [cols] for a norm; [] when it says nothing.
Shape ExpectedShape(Role role, const ModelConfig& config);

// Findings of CFG-TENSOR- rules and CFG-SHAPE. None when the family is not known.
std::vector<Finding> CheckFamily(const Model& model);

}  // namespace pennyweight
