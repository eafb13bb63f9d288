// What split and join share: every tensor passes as it is stored into other files.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "cmd/commands.h"
#include "formats/sinks.h"
#include "lib/model.h"
#include "lib/result.h"
#include "lib/tensor_sink.h"

namespace pennyweight {

// Copies all tensors of options.model (of OpenStored) to options.path, through the sink that `make`
// makes of the options with the run's journal, and commits it.
// Errors: those of OutputRun, ConvertModel and the sink; kInterrupted.
using MakeStoredSink =
    std::function<Result<std::unique_ptr<TensorSink>>(const SinkOptions& options)>;
Result<std::unique_ptr<TensorSink>> CopyStored(const Invocation& invocation,
                                               const std::string& command,
                                               const SinkOptions& options,
                                               const MakeStoredSink& make);

// Safetensors into the folder or file options.path. `options.model` is set.
Status ReshardSafetensors(const Invocation& invocation, const std::string& command,
                          SinkOptions options);

// Says what `written`, the output opened again, consists of: a table, or for --json
// {"files":[{"file","tensors","bytes"}],"tensors","bytes"}.
Status PrintFiles(const Model& written, Console* console);

}  // namespace pennyweight
