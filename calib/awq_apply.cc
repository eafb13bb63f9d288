// Folds of a layer into a source and a record (declared in calib/awq_search.h).
#include <algorithm>
#include <string>
#include <utility>

#include "calib/awq_search.h"

namespace pennyweight {
namespace {

constexpr std::string_view kWeight = ".weight";

// The name of the bias beside a matrix.
std::string BiasOf(std::string name) {
  if (name.ends_with(kWeight)) name.replace(name.size() - kWeight.size(), kWeight.size(), ".bias");
  return name;
}

// The names of a fold's tensors: for a norm the experts of every consumer that has them.
RecordedFold Record(const LayerFold& fold, const ModelConfig& config, int64_t layer,
                    const TensorSource& source) {
  RecordedFold out;
  out.scale = fold.scale;
  const std::string producer = NameFor(fold.producer, layer, fold.expert);
  out.divided.push_back(producer);
  if (fold.kind != FoldPoint::Kind::kNorm && source.Find(BiasOf(producer)) >= 0) {
    out.divided.push_back(BiasOf(producer));
  }
  for (const std::string_view pattern : fold.consumers) {
    const bool all = IsExpertPattern(pattern) && fold.expert < 0;
    for (int64_t e = all ? 0 : fold.expert; e < (all ? config.experts : fold.expert + 1); ++e) {
      out.multiplied.push_back(NameFor(pattern, layer, e));
    }
  }
  if (fold.kind == FoldPoint::Kind::kValue && config.heads != config.kv_heads) {
    out.repeat = config.heads / config.kv_heads;
    out.head_dim = config.head_dim;
  }
  return out;
}

}  // namespace

Status ApplyLayerFolds(const LayerFolds& folds, const ModelConfig& config, int64_t layer,
                       FoldedSource* source, FoldRecord* record) {
  FoldRecord added;
  for (const LayerFold& fold : folds.folds) {
    added.folds.push_back(Record(fold, config, layer, source->inner()));
  }
  PW_ASSIGN(const auto by_tensor, FoldsOf(added, source->inner()));
  for (const auto& [index, fold] : by_tensor) {
    const Fold* before = source->FoldOf(index);
    source->SetFold(index, before == nullptr ? fold : Compose(*before, fold));
  }
  if (record == nullptr) return OkStatus();
  for (RecordedFold& fold : added.folds) record->folds.push_back(std::move(fold));
  return OkStatus();
}

FoldRecord FullRecord(const Family& family, const ModelConfig& config, const TensorSource& source) {
  FoldRecord record;
  const std::vector<FoldPoint> points = FoldPointsOf(family);
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    for (const FoldPoint& point : points) {
      const bool value = point.kind == FoldPoint::Kind::kValue;
      const bool norm = point.kind == FoldPoint::Kind::kNorm;
      const int64_t channels = norm    ? config.hidden_size
                               : value ? config.kv_heads * config.head_dim
                                       : config.intermediate_size;
      for (int64_t e = point.per_expert ? 0 : -1; e < (point.per_expert ? config.experts : 0);
           ++e) {
        LayerFold fold;
        fold.kind = point.kind;
        fold.producer = point.producer;
        fold.consumers = point.consumers;
        fold.expert = e;
        fold.scale.assign(static_cast<size_t>(channels), 1.0f);
        record.folds.push_back(Record(fold, config, layer, source));
      }
    }
  }
  return record;
}

Status ClearLayerFolds(const LayerFolds& folds, const ModelConfig& config, int64_t layer,
                       FoldedSource* source) {
  FoldRecord record;
  for (const LayerFold& fold : folds.folds) {
    record.folds.push_back(Record(fold, config, layer, source->inner()));
  }
  PW_ASSIGN(const auto by_tensor, FoldsOf(record, source->inner()));
  for (const auto& [index, fold] : by_tensor) source->SetFold(index, {});
  return OkStatus();
}

}  // namespace pennyweight
