// What a mix comes to on a model that people know.
#pragma once

#include "lib/result.h"
#include "quant/mix.h"

namespace pennyweight {

// Bits per weight of Llama-3-8B under the mix, of the tensors' bytes and everything stored for
// them, calibrated (MixOptions::importance), plain tensors in bf16. Errors: those of DecideTypes.
Result<double> BitsOnLlama8B(const Mix& mix);

}  // namespace pennyweight
