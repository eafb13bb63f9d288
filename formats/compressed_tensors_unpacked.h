// The linears of compressed-tensors that are not streams of words: int-quantized, nvfp4. Layouts:
// compressed_tensors_reader.h.
#pragma once

#include <string>
#include <vector>

#include "formats/compressed_tensors_groups.h"
#include "formats/packed_tensors.h"
#include "lib/result.h"

namespace pennyweight {

// P.weight of I8. Errors: kTensorMissing, kInvalidTensor, kUnsupported.
Status AddIntQuantized(const PartsIndex& index, int64_t weight, const std::string& prefix,
                       const std::vector<GroupRule>& rules, Packing* packing);

// P.weight_packed of U8 with scales of F8_E4M3. Errors: kTensorMissing, kInvalidTensor.
Status AddNvfp4Linear(const PartsIndex& index, const std::string& prefix, int64_t packed,
                      int64_t scale, Packing* packing);

}  // namespace pennyweight
