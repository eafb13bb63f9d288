// -o of the commands that write a model: where to, and whether that may be.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cmd/arguments.h"
#include "cmd/console.h"
#include "lib/model.h"
#include "lib/result.h"

namespace pennyweight {

// --output without slashes at its end. Errors: kUsage with `pennyweight COMMAND INPUT -o
// model.gguf` as the hint when there is none.
Result<std::string> OutputPath(std::string_view command, const Arguments& arguments);

// Before any work. Errors: Model::danger, kOutputIsInput, kOutputExists (unless force), and those
// of CheckReportFiles.
Status CheckOutput(const std::string& output, const std::vector<std::string>& reports, bool force,
                   const Model& model);

// Says which files of a model's folder are not copied to an output folder, and why an output folder
// gets no tokenizer. Errors: kIo.
Status NoteLeftBehind(const Model& model, Console* console);

}  // namespace pennyweight
