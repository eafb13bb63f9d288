#include "calib/stream_tensors.h"

#include <algorithm>
#include <limits>
#include <mutex>

#include "calib/tile_work.h"
#include "quant/codec.h"
#include "quant/method.h"

namespace pennyweight {
namespace {

// Values that are decoded and compared at a time: they stay in the first-level cache.
constexpr int64_t kPieceElements = 1 << 12;

class TileStream {
 public:
  TileStream(const Context& context, const StreamJob& job, const RowsCallback& on_rows)
      : context_(context), job_(job), on_rows_(on_rows) {
    // The tile is one task; its rows are not parted again.
    context_.threads = 1;
    context_.progress = nullptr;
  }

  Status Work(Tile* tile, TileScratch* scratch) {
    const TensorInfo& info = job_.source->tensors()[tile->tensor];
    const Encoding& to = job_.choices[tile->tensor].encoding;
    PW_TRY(job_.source->ReadRows(tile->tensor, tile->row, tile->rows, &scratch->stored));
    const EncodedTensor* written = &scratch->stored;
    const float* values = nullptr;
    if (to != info.encoding) {
      Status status = Encode(info, to, tile, scratch);
      if (!status.ok()) {
        return std::move(status).TakeError().InTensor(info.name).InFile(info.file);
      }
      written = &scratch->encoded;
      values = scratch->values.data();
    }
    if (CanDecode(info.encoding)) PW_TRY(Measure(*written, values, tile, scratch));
    Status status = job_.sink->Write(tile->tensor, tile->row, *written);
    if (!status.ok()) return std::move(status).TakeError().InTensor(info.name);
    return OkStatus();
  }

 private:
  Status Encode(const TensorInfo& info, const Encoding& to, const Tile* tile,
                TileScratch* scratch) {
    if (!CanDecode(info.encoding)) {
      return Error(ErrorCode::kUnsupported,
                   "values of type " + info.encoding.Name() + " cannot be decoded");
    }
    scratch->values.resize(static_cast<size_t>(tile->rows * info.cols()));
    DecodeRows(scratch->stored, 0, tile->rows, scratch->values.data());
    const ScaleSearch search =
        job_.method == Method::kMinMax ? ScaleSearch::kMinMax : ScaleSearch::kSearch;
    return QuantizeRtn(context_, to, scratch->values.data(), tile->rows, info.cols(), {}, search,
                       &scratch->encoded);
  }

  // The error of what is written against `values`; null: the same bytes, so there is none.
  Status Measure(const EncodedTensor& written, const float* values, Tile* tile,
                 TileScratch* scratch) {
    const int64_t cols = written.cols;
    const int64_t step = std::max<int64_t>(1, kPieceElements / cols);
    scratch->decoded.resize(static_cast<size_t>(std::min(step, tile->rows) * cols));
    float* decoded = scratch->decoded.data();
    WeightError& error = tile->result.error;
    for (int64_t row = 0; row < tile->rows; row += step) {
      const int64_t rows = std::min(step, tile->rows - row);
      DecodeRows(written, row, rows, decoded);
      error.Add(values == nullptr ? decoded : values + row * cols, decoded, rows * cols);
      if (!on_rows_) continue;
      const std::lock_guard<std::mutex> lock(mutex_);
      PW_TRY(on_rows_(tile->row + row, rows, decoded));
    }
    // NaN minus NaN is no zero, but the bytes are the same.
    if (values == nullptr) error.sum_sq_error = error.max_abs_error = 0;
    return OkStatus();
  }

  Context context_;
  const StreamJob& job_;
  const RowsCallback& on_rows_;
  std::mutex mutex_;
};

}  // namespace

Context WithinCalibration(const Context& context) {
  // Their tiles take less than the few that LayerWalk::WorkingBytes counts.
  constexpr int kThreads = 4;
  Context within = context;
  within.threads = std::min(context.threads, kThreads);
  within.memory_limit = std::numeric_limits<uint64_t>::max();
  within.progress = nullptr;
  return within;
}

Status StreamTensors(const Context& context, const StreamJob& job, std::span<const size_t> which,
                     const RowsCallback& on_rows) {
  const std::vector<TensorInfo>& tensors = job.source->tensors();
  std::vector<Tile> tiles = CutTiles(tensors, which);
  if (context.progress != nullptr) {
    context.progress->Phase("writing tensors", static_cast<int64_t>(tiles.size()));
  }
  TileStream stream(context, job, on_rows);
  PW_TRY(WorkOnTiles(context, tensors, job.journal, &tiles,
                     [&](Tile* tile, TileScratch* scratch) { return stream.Work(tile, scratch); }));

  // In the order of the tiles, whatever order they were done in.
  auto tile = tiles.begin();
  for (const size_t i : which) {
    TensorReport& report = (*job.reports)[i];
    const bool copy = job.choices[i].encoding == tensors[i].encoding;
    report.method = !job.choices[i].quantize        ? (copy ? "copy" : "cast")
                    : job.method == Method::kMinMax ? "minmax"
                                                    : "rtn";
    WeightError error;
    double seconds = 0;
    for (; tile != tiles.end() && tile->tensor == i; ++tile) {
      error.Merge(tile->result.error);
      seconds += tile->result.seconds;
    }
    report.seconds = seconds;
    if (!CanDecode(tensors[i].encoding)) continue;
    FillWeightError(copy ? WeightError() : error, &report);
    job.sums->weight.Merge(error);
  }
  return OkStatus();
}

}  // namespace pennyweight
