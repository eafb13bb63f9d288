// Opens what a user named. One function per container; each checks every rule of its format before
// it returns, and reads no tensor data.
#pragma once

#include <string>
#include <string_view>

#include "lib/model.h"
#include "lib/result.h"

namespace pennyweight {

// A bare .safetensors file: tensors, no configuration. Quantized weights are put together where
// their parts tell the layout (formats/quantized_checkpoint.h).
Result<Model> OpenSafetensors(const std::string& path);

// A PyTorch checkpoint (.pt, .pth, .bin): the tensors of its state dict, no configuration. Its
// pickle is parsed, never executed. `key` chooses among the dicts of a training checkpoint
// (formats/pytorch_pickle.h).
Result<Model> OpenPytorch(const std::string& path, std::string_view key = {});

// A folder as the Hugging Face hub lays it out: config.json, model.safetensors or its shards with
// index, else pytorch_model.bin or its shards with index, tokenizer files. The parts of a quantized
// weight are listed as that weight, in its encoding. A quantization that is not read here leaves
// the parts, and a note. A config or tokenizer that cannot be used is kept as config_error /
// vocabulary_error: commands that do not need it go on.
Result<Model> OpenHuggingFace(const std::string& directory);

// A GGUF v2 or v3 file. Tensors of known families are listed under Hugging Face's names, in its row
// order; configuration and vocabulary come from the metadata.
Result<Model> OpenGguf(const std::string& path);

// The files of a model and nothing but what they list: tensors under the stored names, in the
// stored order and encoding, no family, no configuration. A safetensors or GGUF file, any shard of
// a complete set (NAME-00001-of-0000N), a Hugging Face folder, or a folder with the one split GGUF
// model. Errors: those of the functions above; kUnsupported for PyTorch checkpoints; kShardMissing;
// kUsage for a folder with several split models.
Result<Model> OpenStored(const std::string& path);
// The same of GGUF files.
Result<Model> OpenStoredGguf(const std::string& path);

}  // namespace pennyweight
