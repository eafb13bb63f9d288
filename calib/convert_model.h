// Another container or another float dtype, nothing quantized: every tensor is copied as it is
// stored, or decoded and cast.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "lib/context.h"
#include "lib/journal.h"
#include "lib/model.h"
#include "lib/report.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"
#include "quant/mix.h"

namespace pennyweight {

struct ConvertOptions {
  bool gguf = false;           // the output is a GGUF file: it holds blocks, and norms in f32
  std::optional<DType> dtype;  // F32, F16 or BF16 for all float tensors; none: as they are
  // GGUF: quantized tensors become blocks of the same values where FindRepack has a type for them;
  // the others are decoded. Whether the values are the same, CheckRepacks tells.
  bool repack = false;
};

// What quantized weights are decoded to when no dtype is asked for: the one the model's own
// configuration names, else the 16-bit type of most of its plain weights, else F16.
DType DecodedDType(const Model& model);

// One choice per tensor of the source, all with `quantize` false. Integer and bool tensors and
// floats that are not decoded here (F64, F8, ...) are left as they are, and say so when a dtype was
// asked for. Errors: kUnsupported, with the tensor, for quantized values that have to be decoded
// and cannot be.
Result<std::vector<Choice>> ChooseConversions(const Model& model, const ConvertOptions& options);

// `sink` has begun with one OutputTensor per tensor of the source, in its order; choices are
// parallel to that. Tiles of rows go through on all threads, as many at once as the memory limit
// has room for; the sink is not sealed. totals.bytes_out, seconds and peak_rss_bytes are the
// caller's to fill; layers stays empty. `journal`, of the same output, may be null: tiles that a
// stopped run wrote are not written again.
// Errors: those of the source and the sink; kMemory; kInterrupted.
Result<Report> ConvertModel(const Context& context, const Model& model,
                            std::span<const Choice> choices, TensorSink* sink,
                            Journal* journal = nullptr);

}  // namespace pennyweight
