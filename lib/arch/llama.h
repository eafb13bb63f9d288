// The llama family: Llama 1 to 3, and everything else that says LlamaForCausalLM.
#pragma once

#include "lib/arch/family.h"

namespace pennyweight {

const Family& LlamaFamily();

}  // namespace pennyweight
