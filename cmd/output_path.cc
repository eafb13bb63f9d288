#include "cmd/output_path.h"

#include <fmt/format.h>

#include "cmd/report_output.h"
#include "formats/hf_output.h"
#include "formats/hf_tokenizer_writer.h"
#include "lib/file.h"

namespace pennyweight {

Result<std::string> OutputPath(std::string_view command, const Arguments& arguments) {
  const auto given = arguments.Get("--output");
  if (!given || given->empty()) {
    return Error(ErrorCode::kUsage, "no output was named")
        .Hint(fmt::format("pennyweight {} {} -o model.gguf", command, arguments.inputs()[0]));
  }
  std::string path = *given;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

Status CheckOutput(const std::string& output, const std::vector<std::string>& reports, bool force,
                   const Model& model) {
  if (model.danger) return Error(*model.danger);
  std::vector<std::string> inputs = model.source->files();
  inputs.push_back(model.path);
  for (const std::string& input : inputs) {
    if (SameFile(output, input)) {
      return Error(ErrorCode::kOutputIsInput, "the output is one of the inputs")
          .Hint("give -o another name")
          .InFile(output);
    }
  }
  if (!force && PathExists(output)) {
    return Error(ErrorCode::kOutputExists, "the output exists")
        .Hint("give -o another name, or --force to replace it")
        .InFile(output);
  }
  return CheckReportFiles(reports, force);
}

Status NoteLeftBehind(const Model& model, Console* console) {
  if (model.directory.empty()) {
    if (model.vocabulary_error) {
      console->Note("note: no tokenizer in the output: " + model.vocabulary_error->ToString());
    } else if (model.vocabulary) {
      const auto files = TokenizerFiles(*model.vocabulary);
      if (!files.ok()) console->Note("note: " + files.error().ToString());
    }
    return OkStatus();
  }
  PW_ASSIGN(CompanionFiles files, ListCompanionFiles(model.directory));
  files.other.insert(files.other.end(), files.code.begin(), files.code.end());
  if (!files.other.empty()) {
    console->Note(fmt::format("note: not copied to the output: {}", fmt::join(files.other, ", ")));
  }
  return OkStatus();
}

}  // namespace pennyweight
