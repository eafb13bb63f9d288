// MakeFp8Sink: 8-bit floats as transformers' fp8 has them. For P.weight [N, K]:
//   P.weight            F8_E4M3 or F8_E5M2 [N, K]
//   P.weight_scale_inv  the factors, in spite of the name: F32 [ceil(N / rows), ceil(K / cols)], or
//                       one number for the tensor
// All weights share weight_block_size (null: one number each). Plain tensors are as they are.
// Source: transformers/integrations/finegrained_fp8.py (github.com/huggingface/transformers).
#include <fmt/format.h>

#include <string>
#include <utility>

#include "formats/parts_sink.h"
#include "formats/sinks.h"
#include "lib/checked.h"

namespace pennyweight {
namespace {

constexpr size_t kScale = 1;

Status Check(const Model& model, const OutputTensor& tensor) {
  const Encoding& encoding = tensor.encoding;
  if (encoding.kind == Encoding::Kind::kPlain) return OkStatus();
  const auto refused = [&](const std::string& why, const std::string& hint) -> Status {
    return Error(ErrorCode::kUnsupported, "fp8: " + why).Hint(hint).InTensor(tensor.name);
  };
  const ScaledSpec& spec = encoding.scaled;
  const bool fp8 = encoding.kind == Encoding::Kind::kScaled &&
                   (spec.element == DType::kF8E4M3 || spec.element == DType::kF8E5M2);
  if (!fp8) {
    return refused("this layout holds 8-bit floats, not " + encoding.Name(),
                   "--type fp8_e4m3_b128x128");
  }
  const bool whole = spec.block_rows == 0 && spec.block_cols == 0;
  const bool blocks = spec.block_rows > 0 && spec.block_cols > 0;
  if ((!whole && !blocks) || spec.scale_dtype != DType::kF32 || spec.divided || spec.absmax) {
    return refused("scales are F32, one for each block or for the tensor",
                   "--type fp8_e4m3_b128x128, or --to compressed-tensors");
  }
  if (!IsLinearWeight(model, tensor)) {
    return refused("only the weights of linear modules are quantized",
                   "leave it as it is: --keep REGEX");
  }
  return OkStatus();
}

std::vector<StoredTensor> Parts(const Model&, const OutputTensor& tensor) {
  const ScaledSpec& spec = tensor.encoding.scaled;
  Shape scale;
  if (spec.block_rows > 0) {
    scale = {CeilDiv(tensor.shape[0], spec.block_rows), spec.Groups(tensor.shape[1])};
  }
  return {{tensor.name, spec.element, tensor.shape},
          {tensor.name + "_scale_inv", DType::kF32, std::move(scale)}};
}

Status WriteTile(const OutputTensor&, int64_t row, const EncodedTensor& tile, const PutPart& put) {
  PW_TRY(put(0, static_cast<uint64_t>(row * tile.cols), tile.data.data(), tile.data.size()));
  return PutBlockScales(row, tile, tile.encoding.scaled.block_rows, kScale, put);
}

Result<Json> Config(const Model& model, const std::vector<OutputTensor>& tensors) {
  const OutputTensor* first = nullptr;
  for (const OutputTensor& tensor : tensors) {
    if (tensor.encoding.kind == Encoding::Kind::kPlain) continue;
    if (first == nullptr) first = &tensor;
    if (tensor.encoding == first->encoding) continue;
    return Error(ErrorCode::kUnsupported,
                 fmt::format("fp8: all weights have one type, and this one is {} where {} is {}",
                             tensor.encoding.Name(), first->name, first->encoding.Name()))
        .Hint("--to compressed-tensors")
        .InTensor(tensor.name);
  }
  const ScaledSpec& spec = first->encoding.scaled;
  Json size;
  if (spec.block_rows > 0) {
    size = Json::Array();
    size.Push(Json::Integer(spec.block_rows));
    size.Push(Json::Integer(spec.block_cols));
  }
  Json left = Json::Array();
  for (const std::string& module : PlainLinears(model, tensors)) left.Push(Json::String(module));
  Json config = Json::Object();
  config.Set("quant_method", Json::String("fp8"));
  config.Set("activation_scheme", Json::String("dynamic"));
  config.Set("fmt", Json::String(spec.element == DType::kF8E4M3 ? "e4m3" : "e5m2"));
  config.Set("weight_block_size", std::move(size));
  config.Set("modules_to_not_convert", std::move(left));
  return config;
}

}  // namespace

Result<std::unique_ptr<TensorSink>> MakeFp8Sink(const SinkOptions& options) {
  return MakePartsSink(options, {Check, Parts, nullptr, WriteTile, Config});
}

}  // namespace pennyweight
