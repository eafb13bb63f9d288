// What split and join share: every tensor passes as it is stored into other files.
#pragma once

#include "cmd/commands.h"
#include "formats/sinks.h"
#include "lib/model.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"

namespace pennyweight {

// Copies all tensors of `model` (of OpenStored) into `sink`, which has not begun, and commits it.
// Errors: those of ConvertModel and the sink; kInterrupted.
Status CopyStored(const Context& context, const Model& model, TensorSink* sink);

// Safetensors into the folder or file options.path. `options.model` is set.
Status ReshardSafetensors(const Context& context, SinkOptions options);

// Says what `written`, the output opened again, consists of: a table, or for --json
// {"files":[{"file","tensors","bytes"}],"tensors","bytes"}.
Status PrintFiles(const Model& written, Console* console);

}  // namespace pennyweight
