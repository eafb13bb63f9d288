// What a Hugging Face folder holds beside the weights: the rewritten config.json and the files that
// are copied from the input's folder.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "formats/sinks.h"
#include "lib/file.h"
#include "lib/json.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"

namespace pennyweight {

// The files of a model's folder that are not weights, by what becomes of them; sorted names.
struct CompanionFiles {
  std::vector<std::string> copied;  // tokenizer, generation config, chat template, licence, README
  std::vector<std::string> code;    // *.py: never copied, so that no output asks to run code
  std::vector<std::string> other;   // everything else, which is left behind too
};

// Errors: those of ListDirectory.
Result<CompanionFiles> ListCompanionFiles(const std::string& directory);

struct ConfigChanges {
  // Replaces, or is added as the last key. Without it an input's own quantization_config is kept,
  // unless its integer tensors were decoded on the way.
  std::optional<Json> quantization_config;
  // Replaces the value of dtype and torch_dtype, whichever are there ("bfloat16").
  std::optional<std::string> dtype;
};

// The text of config.json: the input's own with the changes, all other keys as they were; for a
// model without a folder (GGUF) one made from its configuration.
// Errors: kConfigMissing when there is neither; kConfigInvalid; those of Json::ParseFile.
Result<std::string> OutputConfig(const Model& model, const ConfigChanges& changes);

// PyTorch's name of a float dtype: "bfloat16", "float16", "float32"; empty for all others.
std::string TorchDtypeName(DType dtype);

// Refuses, before any work: an output that exists (unless force), kOutputExists; one that is an
// input, a link to one, or a folder that holds one, kOutputIsInput.
Status CheckOutputPath(const SinkOptions& options);

// Compares what a finished file or folder lists with what was announced: names, shapes, encodings,
// nothing missing and nothing more. `zeros_by_words`: what was announced with zero points may be
// listed without. Errors: kVerifyFailed with the tensor.
Status CompareListing(const std::vector<OutputTensor>& announced,
                      const std::vector<TensorInfo>& listed, bool zeros_by_words = false);

}  // namespace pennyweight
