#include "cmd/reshard.h"

#include <fmt/format.h>

#include <map>
#include <utility>

#include "calib/convert_model.h"
#include "cmd/output_run.h"
#include "formats/readers.h"
#include "lib/file.h"

namespace pennyweight {

Result<std::unique_ptr<TensorSink>> CopyStored(const Invocation& invocation,
                                               const std::string& command,
                                               const SinkOptions& options,
                                               const MakeStoredSink& make) {
  const Model& model = *options.model;
  std::vector<OutputTensor> outputs;
  std::vector<Choice> choices;
  for (const TensorInfo& tensor : model.source->tensors()) {
    outputs.push_back({tensor.name, tensor.encoding, tensor.shape});
    choices.push_back({tensor.encoding, false, {}});
  }
  PW_ASSIGN(const OutputRun run,
            OutputRun::Begin(invocation, command, options.path, model, outputs, {}));
  const auto make_with_journal = [&](Journal* journal) {
    SinkOptions with_journal = options;
    with_journal.journal = journal;
    return make(with_journal);
  };
  const auto fill = [&](TensorSink* sink, Journal* journal) -> Status {
    PW_TRY(ConvertModel(invocation.context, model, choices, sink, journal));
    return OkStatus();
  };
  return run.Write(make_with_journal, fill);
}

Status ReshardSafetensors(const Invocation& invocation, const std::string& command,
                          SinkOptions options) {
  options.provenance = options.model->source->metadata();
  options.weights_only = true;
  options.as_stored = true;
  PW_TRY(CopyStored(invocation, command, options, MakeSafetensorsSink));
  return OkStatus();
}

Status PrintFiles(const Model& written, Console* console) {
  std::map<std::string, int64_t> counts;
  for (const TensorInfo& tensor : written.source->tensors()) ++counts[tensor.file];
  Table table{{"file", "tensors", "bytes"}, {}, {true}};
  Json files = Json::Array();
  uint64_t total = 0;
  for (const std::string& path : written.source->files()) {
    PW_ASSIGN(const ReadFile file, ReadFile::Open(path));
    table.rows.push_back({path, fmt::format("{}", counts[path]), HumanBytes(file.size())});
    Json row = Json::Object();
    row.Set("file", Json::String(path));
    row.Set("tensors", Json::Integer(counts[path]));
    row.Set("bytes", Json::Unsigned(file.size()));
    files.Push(std::move(row));
    total += file.size();
  }
  const size_t tensors = written.source->tensors().size();
  console->Print(table.ToString());
  console->Note(fmt::format("{} tensors in {} file{}, {}", tensors, table.rows.size(),
                            table.rows.size() == 1 ? "" : "s", HumanBytes(total)));
  Json result = Json::Object();
  result.Set("files", std::move(files));
  result.Set("tensors", Json::Unsigned(tensors));
  result.Set("bytes", Json::Unsigned(total));
  console->PrintResult(console->json() ? result.Dump() : std::string());
  return OkStatus();
}

}  // namespace pennyweight
