// The layouts this program writes. Each is a TensorSink; see lib/tensor_sink.h for its life.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lib/journal.h"
#include "lib/model.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"

namespace pennyweight {

struct SinkOptions {
  std::string path;              // final name of the file or folder
  bool force = false;            // replace what exists
  const Model* model = nullptr;  // the input: configuration, vocabulary, files to copy along
  uint32_t gguf_file_type = 0;   // general.file_type
  // Metadata of the file or of every shard: "pennyweight.*" (version, recipe), and for plain
  // safetensors what is kept of the input's own.
  std::map<std::string, std::string> provenance;
  // A folder's weight files are closed before they pass this many bytes of tensors; a larger tensor
  // has one of its own. The hub's customary 5 GB.
  uint64_t shard_bytes = 5'000'000'000;
  // A folder of an input that has no configuration is written without config.json, not refused.
  bool weights_only = false;
  // The model is of OpenStored: config.json is copied byte by byte, and the finished output is
  // opened again in the same way.
  bool as_stored = false;
  // What was folded into the tensors, read at Seal; null: nothing. It goes into a GGUF file's
  // metadata, for which `folds_bytes` are set aside in the header (FoldRecordToJson of what may
  // come), and into a file of its own in a folder (lib/fold_record.h).
  const FoldRecord* folds = nullptr;
  uint64_t folds_bytes = 0;
  // Only sizes are wanted: no file or folder is made, Write does nothing, Commit is an error.
  // OutputName, OutputBytes and, after Seal, TotalBytes are those of the real output.
  bool measure = false;
  // Of this output; null: the run cannot be resumed.
  Journal* journal = nullptr;
};

// One GGUF v3 file that llama.cpp runs: names and row order of the family's GGUF dialect, metadata,
// vocabulary. Errors: kUnknownFamily, kTokenizer, kOutputExists, those of TensorSink.
Result<std::unique_ptr<TensorSink>> MakeGgufSink(const SinkOptions& options);

// A Hugging Face folder in the layouts of compressed-tensors: integers, fp8_e4m3, NVFP4, MXFP4.
Result<std::unique_ptr<TensorSink>> MakeCompressedTensorsSink(const SinkOptions& options);

// A Hugging Face folder of 8-bit floats in blocks, as transformers' fp8 (DeepSeek-V3).
Result<std::unique_ptr<TensorSink>> MakeFp8Sink(const SinkOptions& options);

// A Hugging Face folder of bitsandbytes' 4-bit codebooks.
Result<std::unique_ptr<TensorSink>> MakeBnbSink(const SinkOptions& options);

// A Hugging Face folder as AutoGPTQ and GPTQModel write it: integers of 2, 3, 4 or 8 bits.
Result<std::unique_ptr<TensorSink>> MakeGptqSink(const SinkOptions& options);

// A Hugging Face folder as AutoAWQ writes it (GEMM): 4-bit integers.
Result<std::unique_ptr<TensorSink>> MakeAwqSink(const SinkOptions& options);

// Why an integer matrix [rows, cols] does not divide into the words and groups of a layout, by its
// name; empty when it does, or when the layout holds no such integers. It can only stay plain then.
std::string WordMisfit(std::string_view layout, const IntegerSpec& spec, const Shape& shape);

// The layouts that hold values of an encoding, by the names that --to takes.
std::vector<std::string_view> LayoutsFor(const Encoding& encoding);

// Plain tensors: one file when the path ends in .safetensors, else a Hugging Face folder with one
// weight file, or with shards and their index when it is larger than shard_bytes.
Result<std::unique_ptr<TensorSink>> MakeSafetensorsSink(const SinkOptions& options);

}  // namespace pennyweight
