#include "cmd/reshard.h"

#include <fmt/format.h>

#include <map>
#include <utility>

#include "calib/convert_model.h"
#include "formats/readers.h"
#include "lib/file.h"

namespace pennyweight {

Status CopyStored(const Context& context, const Model& model, TensorSink* sink) {
  std::vector<OutputTensor> outputs;
  std::vector<Choice> choices;
  for (const TensorInfo& tensor : model.source->tensors()) {
    outputs.push_back({tensor.name, tensor.encoding, tensor.shape});
    choices.push_back({tensor.encoding, false, {}});
  }
  PW_TRY(sink->Begin(outputs));
  PW_TRY(ConvertModel(context, model, choices, sink));
  PW_TRY(sink->Seal());
  // Reading back takes as long as writing did; who stopped it meanwhile wants no output.
  if (context.Cancelled()) return Error(ErrorCode::kInterrupted, "stopped before it was done");
  return sink->Commit();
}

Status ReshardSafetensors(const Context& context, SinkOptions options) {
  options.provenance = options.model->source->metadata();
  options.weights_only = true;
  options.as_stored = true;
  PW_ASSIGN(const std::unique_ptr<TensorSink> sink, MakeSafetensorsSink(options));
  return CopyStored(context, *options.model, sink.get());
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
