#include "calib/stream_tensors.h"

#include <algorithm>
#include <limits>
#include <mutex>
#include <string>

#include "calib/scaled_tensor.h"
#include "calib/tile_work.h"
#include "lib/parallel.h"
#include "quant/codec.h"
#include "quant/method.h"
#include "quant/non_finite.h"

namespace pennyweight {
namespace {

// Weights that are decoded, quantized and measured at a time: as floats they stay in a core's
// second-level cache from the first step to the last, and what is compared in the first-level one.
constexpr int64_t kPieceElements = 1 << 15;
constexpr int64_t kCompareElements = 1 << 12;

// Whether rows of a tile can be encoded apart and put behind each other.
bool HasRowPieces(const Encoding& to) {
  return to.kind != Encoding::Kind::kScaled && to.kind != Encoding::Kind::kCodebook;
}

template <class T>
void AppendAll(const std::vector<T>& from, std::vector<T>* to) {
  to->insert(to->end(), from.begin(), from.end());
}

// Puts the rows of `piece` behind those of `tile`, which is empty or of the same encoding.
void AppendRows(const EncodedTensor& piece, EncodedTensor* tile) {
  AppendAll(piece.data, &tile->data);
  AppendAll(piece.codes, &tile->codes);
  AppendAll(piece.scales, &tile->scales);
  AppendAll(piece.zeros, &tile->zeros);
  tile->rows += piece.rows;
}

// Tokens behind a tensor's importance, or why there is none.
void NoteWeighting(const KnownStatistics& known, size_t tensor, TensorReport* report) {
  const int64_t input = known.InputOf(tensor);
  if (input >= 0) report->tokens = known.statistics().inputs[static_cast<size_t>(input)].tokens;
  const std::string why(known.WhyUnweighted(tensor));
  // llama.cpp's files have no entry for these two.
  const bool rare = report->role == Role::kEmbedding || report->role == Role::kHead;
  if (why.empty() || rare) return;
  report->fallback = report->fallback ? *report->fallback + "; " + why : why;
}

class TileStream {
 public:
  TileStream(const Context& context, const StreamJob& job, const RowsCallback& on_rows)
      : context_(context),
        job_(job),
        on_rows_(on_rows),
        search_(job.method == Method::kMinMax ? ScaleSearch::kMinMax : ScaleSearch::kSearch),
        tensor_scales_(job.choices.size()) {
    // The tile is one task; its rows are not parted again.
    context_.threads = 1;
    context_.progress = nullptr;
  }

  // Reads the tensors once for the scales that belong to all of a tensor, where there are any.
  Status FindScales(const Context& context, std::span<const size_t> which) {
    const std::vector<TensorInfo>& tensors = job_.source->tensors();
    return ParallelTry(context, static_cast<int64_t>(which.size()), [&](int64_t at) -> Status {
      const size_t i = which[static_cast<size_t>(at)];
      const Encoding& to = job_.choices[i].encoding;
      if (to == tensors[i].encoding) return OkStatus();
      PW_ASSIGN(tensor_scales_[i],
                ReadTensorScale(context_, *job_.source, i, to, ImportanceOf(i), search_));
      return OkStatus();
    });
  }

  Status Work(Tile* tile, TileScratch* scratch) {
    const TensorInfo& info = job_.source->tensors()[tile->tensor];
    const Encoding& to = job_.choices[tile->tensor].encoding;
    PW_TRY(job_.source->ReadRows(tile->tensor, tile->row, tile->rows, &scratch->stored));
    const bool copy = to == info.encoding;
    if (!copy) {
      Status status = Encode(info, to, tile, scratch);
      if (!status.ok()) {
        return std::move(status).TakeError().InTensor(info.name).InFile(info.file);
      }
    } else if (CanDecode(info.encoding)) {
      PW_TRY(Measure(scratch->stored, nullptr, false, tile->row, &tile->result.error, scratch));
    }
    Status status =
        job_.sink->Write(tile->tensor, tile->row, copy ? scratch->stored : scratch->encoded);
    if (!status.ok()) return std::move(status).TakeError().InTensor(info.name);
    return OkStatus();
  }

 private:
  Status Encode(const TensorInfo& info, const Encoding& to, Tile* tile, TileScratch* scratch) {
    if (!CanDecode(info.encoding)) {
      return Error(ErrorCode::kUnsupported,
                   "values of type " + info.encoding.Name() + " cannot be decoded");
    }
    const int64_t cols = info.cols();
    const int64_t step =
        HasRowPieces(to) ? std::max<int64_t>(1, kPieceElements / cols) : tile->rows;
    scratch->encoded.Reset(to, 0, cols);
    scratch->values.resize(static_cast<size_t>(std::min(step, tile->rows) * cols));
    float* values = scratch->values.data();
    for (int64_t row = 0; row < tile->rows; row += step) {
      const int64_t rows = std::min(step, tile->rows - row);
      DecodeRows(scratch->stored, row, rows, values);
      const bool keep = job_.choices[tile->tensor].keep_non_finite;
      PW_TRY(Quantize(tile->tensor, keep, values, tile->row + row, rows, cols, &scratch->piece));
      if (keep) tile->result.kept_non_finite += ReplaceNonFinite(values, rows * cols);
      PW_TRY(Measure(scratch->piece, values, keep, tile->row + row, &tile->result.error, scratch));
      if (step >= tile->rows) {
        std::swap(scratch->encoded, scratch->piece);
      } else {
        AppendRows(scratch->piece, &scratch->encoded);
      }
    }
    return OkStatus();
  }

  // Of the columns of a tensor; empty: all count alike.
  std::span<const float> ImportanceOf(size_t tensor) const {
    if (job_.known == nullptr || search_ == ScaleSearch::kMinMax) return {};
    return job_.known->Importance(tensor);
  }

  // Rows that begin at `first` of the tensor.
  Status Quantize(size_t tensor, bool keep_non_finite, const float* values, int64_t first,
                  int64_t rows, int64_t cols, EncodedTensor* out) {
    const Encoding& to = job_.choices[tensor].encoding;
    if (keep_non_finite) {
      CastTile(to, values, rows, cols, out);
      return OkStatus();
    }
    Status status = QuantizeRtn(context_, to, values, rows, cols, ImportanceOf(tensor), search_,
                                out, job_.effort, tensor_scales_[tensor]);
    if (status.ok()) return status;
    return LocateNonFinite(std::move(status).TakeError(), values, rows, cols, first);
  }

  // Adds the error of `written`, rows from `first` of the tensor on, against `values`; null: the
  // same bytes, so there is none.
  Status Measure(const EncodedTensor& written, const float* values, bool keep_non_finite,
                 int64_t first, WeightError* error, TileScratch* scratch) {
    const int64_t cols = written.cols;
    const int64_t step = std::max<int64_t>(1, kCompareElements / cols);
    scratch->decoded.resize(static_cast<size_t>(std::min(step, written.rows) * cols));
    float* decoded = scratch->decoded.data();
    for (int64_t row = 0; row < written.rows; row += step) {
      const int64_t rows = std::min(step, written.rows - row);
      DecodeRows(written, row, rows, decoded);
      // No error can be told of values that were kept although they are none.
      if (keep_non_finite) ReplaceNonFinite(decoded, rows * cols);
      error->Add(values == nullptr ? decoded : values + row * cols, decoded, rows * cols);
      if (!on_rows_) continue;
      const std::lock_guard<std::mutex> lock(mutex_);
      PW_TRY(on_rows_(first + row, rows, decoded));
    }
    // NaN minus NaN is no zero, but the bytes are the same.
    if (values == nullptr) error->sum_sq_error = error->max_abs_error = 0;
    return OkStatus();
  }

  Context context_;
  const StreamJob& job_;
  const RowsCallback& on_rows_;
  ScaleSearch search_;
  std::vector<std::optional<float>> tensor_scales_;
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
  std::vector<Tile> tiles = CutTiles(tensors, which, job.choices);
  if (context.progress != nullptr) {
    context.progress->Phase("writing tensors", static_cast<int64_t>(tiles.size()));
  }
  TileStream stream(context, job, on_rows);
  PW_TRY(stream.FindScales(context, which));
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
    if (job.known != nullptr && job.choices[i].quantize && !copy) {
      NoteWeighting(*job.known, i, &report);
    }
    WeightError error;
    double seconds = 0;
    int64_t kept = 0;
    for (; tile != tiles.end() && tile->tensor == i; ++tile) {
      error.Merge(tile->result.error);
      seconds += tile->result.seconds;
      kept += tile->result.kept_non_finite;
    }
    if (kept > 0) report.fallback = std::to_string(kept) + " NaN or infinite, kept as they are";
    report.seconds = seconds;
    if (!CanDecode(tensors[i].encoding)) continue;
    FillWeightError(copy ? WeightError() : error, &report);
    job.sums->weight.Merge(error);
  }
  return OkStatus();
}

}  // namespace pennyweight
