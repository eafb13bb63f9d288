// A Hugging Face folder in which a quantized weight is several stored tensors: what the layouts of
// others have in common. A layout is a row of plain functions; plain tensors are written as they
// are.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "formats/safetensors_writer.h"
#include "formats/shard_writer.h"
#include "formats/sinks.h"
#include "lib/json.h"
#include "lib/model.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"

namespace pennyweight {

// Writes into the parts of one tensor.
class PutPart {
 public:
  PutPart(ShardWriter* shards, size_t first) : shards_(shards), first_(first) {}

  // `bytes` bytes at `offset` of part `part`.
  Status operator()(size_t part, uint64_t offset, const void* from, uint64_t bytes) const {
    return shards_->Write(first_ + part, offset, from, bytes);
  }
  // Columns of a part that is a matrix of lines of `line_bytes`: `from` holds `lines` pieces of
  // equal size behind each other, and each goes to `offset` of its line.
  Status Columns(size_t part, uint64_t line_bytes, int64_t lines, uint64_t offset,
                 const std::vector<uint8_t>& from) const {
    const auto count = static_cast<uint64_t>(lines);
    if (count == 0) return OkStatus();
    return shards_->WriteLines(first_ + part, offset, line_bytes, count, from.data(),
                               from.size() / count);
  }

 private:
  ShardWriter* shards_;
  size_t first_;  // the tensor's first part
};

struct PartsLayout {
  // Whether the layout holds the tensor. Errors: kUnsupported with a hint.
  Status (*check)(const Model& model, const OutputTensor& tensor);
  // The parts of a tensor that is not plain; a report names it by the first.
  std::vector<StoredTensor> (*parts)(const Model& model, const OutputTensor& tensor);
  // Writes the parts that hold no weights. May be null.
  Status (*constants)(const Model& model, const OutputTensor& tensor, const PutPart& put);
  // Writes rows [row, row + tile.rows) of `tensor`, which is not plain. Thread-safe; CheckTile
  // holds. Errors: kInvalidTensor, without the tensor's name, and those of `put`.
  Status (*write)(const OutputTensor& tensor, int64_t row, const EncodedTensor& tile,
                  const PutPart& put);
  // The quantization_config. At least one tensor is not plain. Errors: kUnsupported.
  Result<Json> (*config)(const Model& model, const std::vector<OutputTensor>& tensors);
};

// Errors: those of CheckOutputPath and OutputConfig.
Result<std::unique_ptr<TensorSink>> MakePartsSink(const SinkOptions& options,
                                                  const PartsLayout& layout);

// The weight of a module of the class Linear, as the loaders find it: a matrix P.weight that is no
// embedding.
bool IsLinearWeight(const Model& model, const OutputTensor& tensor);
// The weight of the model's head, a linear module outside of its layers.
bool IsHead(const Model& model, const OutputTensor& tensor);
// "model.layers.0.mlp.up_proj" of "model.layers.0.mlp.up_proj.weight".
std::string ModuleOf(std::string_view name);
// Modules of the class Linear whose weights are plain; with a head that is tied away, since clients
// build it all the same.
std::vector<std::string> PlainLinears(const Model& model, const std::vector<OutputTensor>& tensors);

// Writes the scales of a tile's rows into a part that has one row of them for each `block_rows`
// rows of the tensor (0: for all). Errors: kInvalidTensor when rows of a block have other scales.
Status PutBlockScales(int64_t row, const EncodedTensor& tile, int64_t block_rows, size_t part,
                      const PutPart& put);

}  // namespace pennyweight
