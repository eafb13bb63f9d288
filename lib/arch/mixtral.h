// Mixtral: a llama whose feed-forward part is a mixture of experts.
#pragma once

#include "lib/arch/family.h"

namespace pennyweight {

const Family& MixtralFamily();

}  // namespace pennyweight
