// Qwen2 and Qwen2.5: a llama with biases on q, k and v.
#pragma once

#include "lib/arch/family.h"

namespace pennyweight {

const Family& Qwen2Family();

}  // namespace pennyweight
