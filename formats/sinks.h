// The layouts this program writes. Each is a TensorSink; see lib/tensor_sink.h for its life.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "lib/model.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"

namespace pennyweight {

struct SinkOptions {
  std::string path;               // final name of the file or folder
  bool force = false;             // replace what exists
  const Model* model = nullptr;   // the input: configuration, vocabulary, files to copy along
  uint32_t gguf_file_type = 0;    // general.file_type
  std::map<std::string, std::string> provenance;  // "pennyweight.*" metadata: version, recipe
};

// One GGUF v3 file that llama.cpp runs: names and row order of the family's GGUF dialect, metadata,
// vocabulary. Errors: kUnknownFamily, kTokenizer, kOutputExists, those of TensorSink.
Result<std::unique_ptr<TensorSink>> MakeGgufSink(const SinkOptions& options);

// A Hugging Face folder in the pack-quantized layout of compressed-tensors.
Result<std::unique_ptr<TensorSink>> MakeCompressedTensorsSink(const SinkOptions& options);

// Plain tensors: one file when the path ends in .safetensors, else a Hugging Face folder.
Result<std::unique_ptr<TensorSink>> MakeSafetensorsSink(const SinkOptions& options);

}  // namespace pennyweight
