// pennyweight inspect: what is in a model, before a byte of its weights is read.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "cmd/commands.h"
#include "cmd/open_model.h"
#include "lib/finding.h"

namespace pennyweight {

namespace {

constexpr Flag kFlags[] = {kKeyFlag};

}  // namespace

const CommandSpec kInspectSpec = {
    "inspect",
    "tensors, types, sizes, metadata and parameter counts of a model",
    "MODEL",
    1,
    "  pennyweight inspect ./Llama-8B\n"
    "  pennyweight inspect model.gguf --json | jq '.result.tensors[0]'\n",
    kFlags};

namespace {

// Weights that work on a token: all, but of a layer's experts only those that are chosen.
int64_t ActiveParameters(const Model& model) {
  int64_t shared = 0, experts = 0;
  for (const TensorInfo& t : model.source->tensors()) {
    (PlaceOfHf(*model.family, t.name).expert >= 0 ? experts : shared) += t.elements();
  }
  if (experts == 0) return shared;
  const auto share = static_cast<double>(model.config->experts_per_token) /
                     static_cast<double>(model.config->experts);
  return shared + std::llround(static_cast<double>(experts) * share);
}

std::string ResultJson(const Model& model, int64_t parameters) {
  Json result = Json::Object();
  result.Set("format", Json::String(std::string(model.source->format())));
  const bool named = model.config && !model.config->architecture.empty();
  result.Set("architecture", named ? Json::String(model.config->architecture) : Json());
  Json files = Json::Array();
  for (const std::string& file : model.source->files()) files.Push(Json::String(file));
  result.Set("files", std::move(files));
  result.Set("parameters", Json::Integer(parameters));
  const bool known = model.family != nullptr && model.config;
  result.Set("active_parameters", known ? Json::Integer(ActiveParameters(model)) : Json());
  Json tensors = Json::Array();
  for (const TensorInfo& t : model.source->tensors()) {
    Json row = Json::Object();
    row.Set("name", Json::String(t.name));
    row.Set("dtype", Json::String(t.encoding.Name()));
    Json shape = Json::Array();
    for (const int64_t d : t.shape) shape.Push(Json::Integer(d));
    row.Set("shape", std::move(shape));
    row.Set("bytes", Json::Unsigned(t.bytes));
    row.Set("file", Json::String(t.file));
    row.Set("offset", Json::Unsigned(t.offset));
    tensors.Push(std::move(row));
  }
  result.Set("tensors", std::move(tensors));
  Json metadata = Json::Object();
  for (const auto& [key, value] : model.source->metadata()) {
    metadata.Set(key, Json::String(value));
  }
  result.Set("metadata", std::move(metadata));
  return result.Dump();
}

void PrintTables(const Model& model, int64_t parameters, uint64_t bytes, Console* console) {
  std::string text = fmt::format("{}: {}", model.path, model.source->format());
  if (model.config && !model.config->architecture.empty()) {
    text += fmt::format(", {}", SafeText(model.config->architecture));
  }
  text += fmt::format("\n{} tensors, {:.2f} M parameters, {} of weights\n",
                      model.source->tensors().size(), static_cast<double>(parameters) / 1e6,
                      HumanBytes(bytes));
  if (model.config && model.family) {
    const ModelConfig& c = *model.config;
    if (c.experts > 0) {
      text += fmt::format("{} experts a layer, {} see a token: {:.2f} M parameters work on it\n",
                          c.experts, c.experts_per_token,
                          static_cast<double>(ActiveParameters(model)) / 1e6);
    }
    const int64_t kv = 2 * c.layers * c.kv_heads * c.head_dim * 2;
    text += fmt::format("memory to run: {} of weights and {} per 1000 tokens of context (f16)\n",
                        HumanBytes(bytes), HumanBytes(static_cast<uint64_t>(kv) * 1000));
  }
  std::map<std::string, std::pair<int64_t, uint64_t>> types;
  for (const TensorInfo& t : model.source->tensors()) {
    auto& [count, size] = types[t.encoding.Name()];
    ++count;
    size += t.bytes;
  }
  Table by_type{{"type", "tensors", "bytes"}, {}, {}};
  for (const auto& [name, entry] : types) {
    by_type.rows.push_back({name, fmt::format("{}", entry.first), HumanBytes(entry.second)});
  }
  Table table{{"tensor", "type", "shape", "bytes"}, {}, {true, true, true}};
  for (const TensorInfo& t : model.source->tensors()) {
    table.rows.push_back(
        {SafeText(t.name), t.encoding.Name(), ShapeToString(t.shape), HumanBytes(t.bytes)});
  }
  console->Print(text + "\n" + by_type.ToString() + "\n" + table.ToString());
}

}  // namespace

Result<int> RunInspect(const Invocation& invocation) {
  PW_ASSIGN(const Model model,
            OpenModelByKey(invocation.arguments.inputs()[0], invocation.arguments));
  int64_t parameters = 0;
  uint64_t bytes = 0;
  for (const TensorInfo& t : model.source->tensors()) {
    parameters += t.elements();
    bytes += t.bytes;
  }
  std::vector<std::string> notes = model.notes;
  if (model.config_error) notes.insert(notes.begin(), model.config_error->ToString());
  notes.erase(std::unique(notes.begin(), notes.end()), notes.end());
  for (const std::string& note : notes) invocation.console.Note("note: " + note);
  if (model.danger) {
    invocation.console.Note("warning: " + model.danger->ToString());
  }
  PrintTables(model, parameters, bytes, &invocation.console);
  invocation.console.PrintResult(invocation.console.json() ? ResultJson(model, parameters)
                                                           : std::string());
  return kExitDone;
}

}  // namespace pennyweight
