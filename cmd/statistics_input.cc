#include "cmd/statistics_input.h"

#include <fmt/format.h>

#include <unordered_map>
#include <utility>

namespace pennyweight {
namespace {

using TensorIndex = std::unordered_map<std::string_view, size_t>;

// What is kept of a file: widths are the model's, names that it does not have are set aside.
Status CheckInputs(const Model& model, const TensorIndex& index, Statistics* statistics,
                   std::vector<std::string>* unknown) {
  const auto& tensors = model.source->tensors();
  const std::string_view embedding = model.family == nullptr ? "" : model.family->embedding;
  std::vector<InputSums> kept;
  for (InputSums& input : statistics->inputs) {
    std::vector<std::string> names;
    for (std::string& name : input.weights) {
      if (name == embedding) continue;
      const auto it = index.find(name);
      if (it == index.end()) {
        unknown->push_back(std::move(name));
        continue;
      }
      const TensorInfo& info = tensors[it->second];
      if (info.cols() != input.width) {
        return Error(ErrorCode::kInvalidTensor,
                     fmt::format("the statistics have {} channels, the matrix has {} columns",
                                 input.width, info.cols()))
            .Hint("make them of this model with `pennyweight calibrate`")
            .InTensor(name);
      }
      names.push_back(std::move(name));
    }
    if (names.empty()) continue;
    input.weights = std::move(names);
    kept.push_back(std::move(input));
  }
  statistics->inputs = std::move(kept);
  return OkStatus();
}

}  // namespace

StatisticsNames NamesOf(const Model& model) {
  return {model.family, model.config ? model.config->experts : 0};
}

Result<StatisticsInput> OpenStatistics(std::span<const std::string> paths, const Model& model,
                                       int64_t window) {
  TensorIndex index;
  const auto& tensors = model.source->tensors();
  for (size_t i = 0; i < tensors.size(); ++i) index.emplace(tensors[i].name, i);
  const std::string fingerprint = ModelFingerprint(*model.source);
  StatisticsInput result;
  result.merged.model = fingerprint;
  for (const std::string& path : paths) {
    PW_ASSIGN(StatisticsFile file, StatisticsFile::Open(path, NamesOf(model), window));
    Statistics statistics = file.statistics();
    Status status = CheckInputs(model, index, &statistics, &result.unknown);
    if (status.ok() && result.files.empty()) result.merged.window = statistics.window;
    if (status.ok()) status = AddStatistics(std::move(statistics), &result.merged);
    if (!status.ok()) return std::move(status).TakeError().InFile(path);
    result.files.push_back(std::move(file));
  }
  return result;
}

}  // namespace pennyweight
