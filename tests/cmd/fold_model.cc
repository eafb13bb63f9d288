// Writes a Hugging Face folder in f32 whose layers have random folds at every fold point, with
// their record: fold_model INPUT OUTPUT SEED. What AWQ makes, without a search.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>

#include "calib/awq_search.h"
#include "formats/readers.h"
#include "formats/sinks.h"
#include "quant/codec.h"

namespace pennyweight {
namespace {

LayerFolds RandomFolds(const Model& model, std::mt19937* random) {
  const ModelConfig& c = *model.config;
  std::normal_distribution<float> normal(0, 1);
  LayerFolds folds;
  for (const FoldPoint& point : FoldPointsOf(*model.family)) {
    const int64_t channels = point.kind == FoldPoint::Kind::kNorm    ? c.hidden_size
                             : point.kind == FoldPoint::Kind::kValue ? c.kv_heads * c.head_dim
                                                                     : c.intermediate_size;
    for (int64_t e = point.per_expert ? 0 : -1; e < (point.per_expert ? c.experts : 0); ++e) {
      LayerFold fold;
      fold.kind = point.kind;
      fold.producer = point.producer;
      fold.consumers = point.consumers;
      fold.expert = e;
      for (int64_t i = 0; i < channels; ++i) {
        fold.scale.push_back(std::exp2(std::clamp(normal(*random), -2.0f, 2.0f)));
      }
      folds.folds.push_back(std::move(fold));
    }
  }
  return folds;
}

Status Write(const Model& model, const FoldedSource& source, const FoldRecord& record,
             const std::string& path) {
  SinkOptions options;
  options.path = path;
  options.model = &model;
  options.folds = &record;
  PW_ASSIGN(const auto sink, MakeSafetensorsSink(options));
  std::vector<OutputTensor> tensors;
  for (const TensorInfo& info : source.tensors()) {
    tensors.push_back({info.name, Encoding::Plain(DType::kF32), info.shape});
  }
  PW_TRY(sink->Begin(tensors));
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& info = source.tensors()[i];
    EncodedTensor tile =
        EncodedTensor::Allocate(Encoding::Plain(DType::kF32), info.rows(), info.cols());
    PW_TRY(ReadFloatRows(source, i, 0, info.rows(), reinterpret_cast<float*>(tile.data.data())));
    PW_TRY(sink->Write(i, 0, tile));
  }
  PW_TRY(sink->Seal());
  return sink->Commit();
}

Status Run(const std::string& input, const std::string& output, unsigned seed) {
  PW_ASSIGN(const Model model, OpenHuggingFace(input));
  if (model.family == nullptr) return Error(ErrorCode::kUnknownFamily, "no family");
  std::mt19937 random(seed);
  FoldedSource source(model.source.get(), ReadFloatRows);
  FoldRecord record;
  for (int64_t layer = 0; layer < model.config->layers; ++layer) {
    PW_TRY(ApplyLayerFolds(RandomFolds(model, &random), *model.config, layer, &source, &record));
  }
  return Write(model, source, record, output);
}

}  // namespace
}  // namespace pennyweight

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const auto status =
      pennyweight::Run(argv[1], argv[2], static_cast<unsigned>(std::stoul(argv[3])));
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.error().ToString().c_str());
  return status.ok() ? 0 : 1;
}
