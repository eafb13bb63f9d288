#include "calib/convert_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <mutex>

#include "calib/matrix_job.h"
#include "calib/quantize_model.h"
#include "calib/unit_result.h"
#include "lib/parallel.h"
#include "lib/peak_rss.h"
#include "quant/codec.h"
#include "quant/metrics.h"
#include "quant/repack.h"

namespace pennyweight {
namespace {

// Elements of a tile: small enough for one per thread on any machine, large enough that a write
// costs what its bytes cost.
constexpr int64_t kTileElements = 1 << 19;

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

// llama.cpp computes with norms and biases in f32 only.
bool IsF32InGguf(const Model& model, const TensorInfo& info) {
  const Role role = DescribeTensor(model, info).role;
  return role == Role::kNorm || role == Role::kBias || info.shape.size() < 2;
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
        choice.fallback = "norms and biases of GGUF files are f32";
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

// Rows [row, row + rows) of one tensor.
struct Tile {
  size_t tensor = 0;
  int64_t row = 0;
  int64_t rows = 0;
  TileResult result;
};

std::vector<Tile> CutTiles(const std::vector<TensorInfo>& tensors) {
  std::vector<Tile> tiles;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].elements() == 0) continue;
    constexpr int64_t kRows = TensorSink::kTileRows;
    const int64_t fit = kTileElements / tensors[i].cols();
    const int64_t step = std::max(kRows, fit / kRows * kRows);
    for (int64_t row = 0; row < tensors[i].rows(); row += step) {
      tiles.push_back({i, row, std::min(step, tensors[i].rows() - row), {}});
    }
  }
  return tiles;
}

// The threads that the memory limit has room for, with the largest tile in each.
Result<Context> FitMemory(const Context& context, const std::vector<TensorInfo>& tensors,
                          const std::vector<Tile>& tiles) {
  // Read, written, and twice decoded, at no more than 8 bytes per value.
  constexpr double kBytesPerValue = 8 + 8 + 4 + 4;
  double largest = 0;
  for (const Tile& tile : tiles) {
    const auto cols = static_cast<double>(tensors[tile.tensor].cols());
    largest = std::max(largest, static_cast<double>(tile.rows) * cols * kBytesPerValue);
  }
  const auto used = static_cast<double>(PeakRssBytes());
  const double room = static_cast<double>(context.memory_limit) - used;
  if (largest > room) {
    constexpr double kMegabyte = 1e6;
    return Error(ErrorCode::kMemory,
                 fmt::format("{:.0f} MB are needed, the limit is {:.0f} MB",
                             (used + largest) / kMegabyte + 1,
                             static_cast<double>(context.memory_limit) / kMegabyte))
        .Hint(fmt::format("use --memory {:.0f}M", (used + largest) / kMegabyte + 1));
  }
  Context fitted = context;
  if (largest > 0) {
    fitted.threads = static_cast<int>(std::min<double>(context.threads, room / largest));
  }
  return fitted;
}

// Buffers of one tile.
struct Scratch {
  EncodedTensor stored, cast;
  std::vector<float> values, written;
};

// Scratch of tiles that are done serves the next ones: fresh pages for every tile cost the system
// more time than the conversion takes.
class ScratchPool {
 public:
  std::unique_ptr<Scratch> Take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return std::make_unique<Scratch>();
    std::unique_ptr<Scratch> scratch = std::move(free_.back());
    free_.pop_back();
    return scratch;
  }
  void Return(std::unique_ptr<Scratch> scratch) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(scratch));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_;
};

Status ConvertTile(const TensorSource& source, const Encoding& to, bool measure, Tile* tile,
                   Scratch* scratch, TensorSink* sink) {
  const auto start = std::chrono::steady_clock::now();
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
      EncodedTensor& cast = scratch->cast;
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
      scratch->written.resize(count);
      DecodeRows(cast, 0, tile->rows, scratch->written.data());
      tile->result.error.Add(scratch->values.data(), scratch->written.data(), n);
    }
  }
  Status status = sink->Write(tile->tensor, tile->row, copy ? scratch->stored : scratch->cast);
  if (!status.ok()) return std::move(status).TakeError().InTensor(info.name);
  tile->result.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return OkStatus();
}

JournalUnit UnitOf(const Tile& tile) {
  return Unit(UnitKind::kTile, tile.tensor, static_cast<uint64_t>(tile.row));
}

// Whether a stopped run wrote the tile; then its result is that run's.
bool WasDone(const Journal* journal, Tile* tile) {
  const std::string* found = journal == nullptr ? nullptr : journal->FindUnit(UnitOf(*tile));
  return found != nullptr && UnpackTile(*found, &tile->result);
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
  std::vector<Tile> tiles = CutTiles(tensors);
  PW_ASSIGN(const Context fitted, FitMemory(context, tensors, tiles));
  // Where nothing is cast there is no error to weigh against the weights: bytes pass unlooked at.
  bool measure = false;
  for (size_t i = 0; i < tensors.size(); ++i)
    measure |= !(choices[i].encoding == tensors[i].encoding);

  const auto count = static_cast<int64_t>(tiles.size());
  ScratchPool pool;
  std::mutex mutex;
  int64_t done = 0;
  if (context.progress != nullptr) context.progress->Phase("converting tiles", count);
  Status converted = ParallelTry(fitted, count, [&](int64_t i) -> Status {
    Tile& tile = tiles[static_cast<size_t>(i)];
    if (!WasDone(journal, &tile)) {
      std::unique_ptr<Scratch> scratch = pool.Take();
      PW_TRY(ConvertTile(*model.source, choices[tile.tensor].encoding, measure, &tile,
                         scratch.get(), sink));
      pool.Return(std::move(scratch));
      if (journal != nullptr) PW_TRY(journal->RecordUnit(UnitOf(tile), PackTile(tile.result)));
    }
    if (context.progress != nullptr) {
      const std::lock_guard<std::mutex> lock(mutex);
      context.progress->Advance(++done);
    }
    return OkStatus();
  });
  PW_TRY(std::move(converted));
  AddErrors(tensors, choices, tiles, &report);
  SummariseTensors(&report);
  return report;
}

}  // namespace pennyweight
