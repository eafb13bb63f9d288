// The linears of a decoder layer in the order in which they are quantized: one stage for each
// distinct input, so that a Hessian serves all linears that read it.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "lib/arch/family.h"

namespace pennyweight {

struct LayerStage {
  Slot input = Slot::kNone;
  bool experts = false;   // each expert reads rows of its own
  size_t first_step = 0;  // of its linears
  size_t keep = 0;  // the last step at or before that in front of which only hidden states live
  std::vector<const Step*> linears;
  std::string_view name;  // for people: the role of its first linear
};

std::vector<LayerStage> LayerStages(const Family& family);

}  // namespace pennyweight
