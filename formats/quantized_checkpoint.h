// Which quantized layout a checkpoint has, by its config.json and by what tensors are there, and
// the checkpoint's weights in their encodings.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lib/json.h"
#include "lib/result.h"
#include "lib/tensor_source.h"

namespace pennyweight {

// The quantization_config object of a config.json; nullptr when there is none.
const Json* QuantizationConfig(const Json& json);

// Takes over `*parts` and lists parts that make one weight as that weight; everything else stays
// as it is. `json` is the config.json at `config_file`; null for a file without one: then layouts
// that their tensors tell are read (GPTQ, AWQ, bitsandbytes, 8-bit floats with scales, gpt-oss),
// and parts that do not fit (a single shard may lack some) stay as they are, with a note. `notes`
// are for people. Without anything to do `*parts` is passed on; on an error it is left. Errors:
// kUnsupported (an unknown quant_method, or a form of a layout that is not read here),
// kConfigMissing and kConfigInvalid (quantization_config, or no tensor is as it says),
// kTensorMissing, kInvalidTensor, kDuplicateKey (parts contradict each other or the config).
Result<std::unique_ptr<TensorSource>> GroupQuantizedParts(const Json* json,
                                                          const std::string& config_file,
                                                          std::unique_ptr<TensorSource>* parts,
                                                          std::vector<std::string>* notes);

}  // namespace pennyweight
