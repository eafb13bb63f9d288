#include "calib/convert_model.h"

#include <fmt/format.h>

#include <numeric>

#include "calib/matrix_job.h"
#include "calib/quantize_model.h"
#include "calib/tile_work.h"
#include "quant/codec.h"
#include "quant/metrics.h"
#include "quant/repack.h"

namespace pennyweight {
namespace {

bool IsPlainFloat(const Encoding& encoding) {
  return encoding.kind == Encoding::Kind::kPlain && IsFloatDType(encoding.dtype);
}

// Floats of a kind that DecodeToFloat does not take.
bool IsOtherFloat(DType dtype) {
  switch (dtype) {
    case DType::kF4:
    case DType::kF6E2M3:
    case DType::kF6E3M2:
    case DType::kF8E5M2:
    case DType::kF8E4M3:
    case DType::kF8E8M0:
    case DType::kF8E4M3Fnuz:
    case DType::kF8E5M2Fnuz:
    case DType::kF64:
    case DType::kC64:
      return true;
    default:
      return false;
  }
}

// llama.cpp computes with norms and biases in f32 only, and its converter keeps routers in f32, so
// that no rounding of activations chooses other experts.
bool IsF32InGguf(const Model& model, const TensorInfo& info) {
  const Role role = DescribeTensor(model, info).role;
  return role == Role::kNorm || role == Role::kBias || role == Role::kRouter ||
         info.shape.size() < 2;
}

Result<Choice> ChooseOne(const Model& model, const TensorInfo& info,
                         const ConvertOptions& options) {
  const Encoding& from = info.encoding;
  Choice keep{from, false, {}};
  if (from.kind == Encoding::Kind::kPlain && !IsFloatDType(from.dtype)) {
    if (options.dtype) {
      keep.fallback = IsOtherFloat(from.dtype) ? "cannot be decoded: copied as it is"
                                               : "integers and bools are not cast";
    }
    return keep;
  }
  const bool from_gguf = model.source->format() == "gguf";
  // A GGUF file that becomes one again keeps what it has.
  if (options.gguf && from_gguf && !options.dtype) return keep;
  if (IsPlainFloat(from)) {
    if (options.gguf && IsF32InGguf(model, info)) {
      Choice choice{Encoding::Plain(DType::kF32), false, {}};
      if (options.dtype && *options.dtype != DType::kF32) {
        choice.fallback = "norms, biases and routers of GGUF files are f32";
      }
      return choice;
    }
    return options.dtype ? Choice{Encoding::Plain(*options.dtype), false, {}} : keep;
  }
  if (!CanDecode(from)) {
    Error error(ErrorCode::kUnsupported,
                fmt::format("values of type {} cannot be decoded", from.Name()));
    if (from.kind == Encoding::Kind::kBlock) error.hint = "--to gguf without --dtype keeps them";
    return std::move(error).InFile(info.file).InTensor(info.name);
  }
  Choice decoded{Encoding::Plain(options.dtype.value_or(DecodedDType(model))), false, {}};
  if (!options.repack) return decoded;
  if (from.kind == Encoding::Kind::kBlock) return keep;
  std::string why_not;
  const auto block = FindRepack(from, info.cols(), &why_not);
  if (block) return Choice{Encoding::Block(*block), false, {}};
  decoded.fallback = why_not;
  return decoded;
}

Status ConvertTile(const TensorSource& source, const Encoding& to, bool measure, Tile* tile,
                   TileScratch* scratch, TensorSink* sink) {
  const TensorInfo& info = source.tensors()[tile->tensor];
  const bool copy = to == info.encoding;
  PW_TRY(source.ReadRows(tile->tensor, tile->row, tile->rows, &scratch->stored));
  if (measure && CanDecode(info.encoding)) {
    const auto count = static_cast<size_t>(tile->rows * info.cols());
    const auto n = static_cast<int64_t>(count);
    scratch->values.resize(count);
    DecodeRows(scratch->stored, 0, tile->rows, scratch->values.data());
    if (copy) {
      tile->result.error.Add(scratch->values.data(), scratch->values.data(), n);
      // NaN minus NaN is no zero, but the bytes are the same.
      tile->result.error.sum_sq_error = tile->result.error.max_abs_error = 0;
    } else {
      EncodedTensor& cast = scratch->encoded;
      if (to.kind == Encoding::Kind::kBlock) {
        if (!RepackRows(scratch->stored, to.block, &cast)) {
          return Error(ErrorCode::kVerifyFailed, "its values changed on the way to " + to.Name())
              .InFile(info.file)
              .InTensor(info.name);
        }
      } else {
        cast.encoding = to;
        cast.rows = tile->rows;
        cast.cols = info.cols();
        cast.data.resize(count * static_cast<size_t>(DTypeBits(to.dtype)) / 8);
        EncodeFromFloat(to.dtype, scratch->values.data(), cast.data.data(), count);
      }
      scratch->decoded.resize(count);
      DecodeRows(cast, 0, tile->rows, scratch->decoded.data());
      tile->result.error.Add(scratch->values.data(), scratch->decoded.data(), n);
    }
  }
  Status status = sink->Write(tile->tensor, tile->row, copy ? scratch->stored : scratch->encoded);
  if (!status.ok()) return std::move(status).TakeError().InTensor(info.name);
  return OkStatus();
}

// The sums of the tiles, in their order: the figures do not depend on the threads.
void AddErrors(const std::vector<TensorInfo>& tensors, std::span<const Choice> choices,
               const std::vector<Tile>& tiles, Report* report) {
  std::vector<WeightError> errors(tensors.size());
  WeightError total;
  for (const Tile& tile : tiles) {
    errors[tile.tensor].Merge(tile.result.error);
    TensorReport& row = report->tensors[tile.tensor];
    row.seconds = row.seconds.value_or(0) + tile.result.seconds;
  }
  bool decoded = false;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const bool copy = choices[i].encoding == tensors[i].encoding;
    const bool block = choices[i].encoding.kind == Encoding::Kind::kBlock;
    report->tensors[i].method = copy ? "copy" : block ? "repack" : "cast";
    if (!CanDecode(tensors[i].encoding)) continue;
    // The same bytes have no error, NaN among them or not.
    FillWeightError(copy ? WeightError() : errors[i], &report->tensors[i]);
    total.Merge(errors[i]);
    decoded = true;
  }
  if (decoded) report->totals.weight_rel_mse = total.RelMse();
}

}  // namespace

DType DecodedDType(const Model& model) {
  // Of a GGUF file of an unknown family no more than the name is known.
  const bool read = model.config && (model.family != nullptr || !model.directory.empty());
  if (read && IsFloatDType(model.config->dtype)) return model.config->dtype;
  int64_t f16 = 0, bf16 = 0;
  for (const TensorInfo& info : model.source->tensors()) {
    if (info.encoding == Encoding::Plain(DType::kF16)) f16 += info.elements();
    if (info.encoding == Encoding::Plain(DType::kBF16)) bf16 += info.elements();
  }
  return bf16 > f16 ? DType::kBF16 : DType::kF16;
}

Result<std::vector<Choice>> ChooseConversions(const Model& model, const ConvertOptions& options) {
  std::vector<Choice> choices;
  for (const TensorInfo& info : model.source->tensors()) {
    PW_ASSIGN(Choice choice, ChooseOne(model, info, options));
    choices.push_back(std::move(choice));
  }
  return choices;
}

Result<Report> ConvertModel(const Context& context, const Model& model,
                            std::span<const Choice> choices, TensorSink* sink, Journal* journal) {
  const std::vector<TensorInfo>& tensors = model.source->tensors();
  Report report;
  report.tensors = DescribeOutput(model, choices, *sink);
  // Where nothing is cast there is no error to weigh against the weights: bytes pass unlooked at.
  bool measure = false;
  for (size_t i = 0; i < tensors.size(); ++i)
    measure |= !(choices[i].encoding == tensors[i].encoding);

  std::vector<size_t> all(tensors.size());
  std::iota(all.begin(), all.end(), size_t{0});
  std::vector<Tile> tiles = CutTiles(tensors, all);
  if (context.progress != nullptr) {
    context.progress->Phase("converting tiles", static_cast<int64_t>(tiles.size()));
  }
  PW_TRY(WorkOnTiles(context, tensors, journal, &tiles, [&](Tile* tile, TileScratch* scratch) {
    return ConvertTile(*model.source, choices[tile->tensor].encoding, measure, tile, scratch, sink);
  }));
  AddErrors(tensors, choices, tiles, &report);
  SummariseTensors(&report);
  return report;
}

}  // namespace pennyweight
