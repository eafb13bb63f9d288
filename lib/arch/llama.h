// The llama family: Llama 1 to 3, and everything else that says LlamaForCausalLM; and Mistral,
// which differs from it by name.
#pragma once

#include "lib/arch/family.h"

namespace pennyweight {

const Family& LlamaFamily();
const Family& MistralFamily();

}  // namespace pennyweight
