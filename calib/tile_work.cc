#include "calib/tile_work.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <mutex>

#include "calib/scaled_tensor.h"
#include "lib/parallel.h"
#include "lib/peak_rss.h"
#include "lib/tensor_sink.h"

namespace pennyweight {
namespace {

// Elements of a tile: as floats they stay in a core's second-level cache from the read to the
// write.
constexpr int64_t kTileElements = 1 << 18;
// About the most tiles of one model: each has a record in the journal, whose length is limited.
constexpr int64_t kMostTiles = 1 << 18;
// Heads of up to so many rows are moved as whole by layouts that reorder rows.
constexpr int64_t kHeadRows = 128;

// Rows of a tile of about `elements`, for rows of `cols`.
int64_t RowsOfTile(int64_t cols, int64_t elements) {
  const int64_t fit = elements / cols;
  const int64_t unit = fit >= kHeadRows / 2 ? kHeadRows : TensorSink::kTileRows;
  return std::max(unit, fit / unit * unit);
}

// The threads that the memory limit has room for, with the largest tile in each.
Result<Context> FitMemory(const Context& context, const std::vector<TensorInfo>& tensors,
                          const std::vector<Tile>& tiles) {
  double largest = 0;
  for (const Tile& tile : tiles) {
    const auto cols = static_cast<double>(tensors[tile.tensor].cols());
    largest = std::max(largest, static_cast<double>(tile.rows) * cols * kTileBytesPerValue);
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

// Scratch of tiles that are done serves the next ones: fresh pages for every tile cost the system
// more time than the conversion takes.
class ScratchPool {
 public:
  std::unique_ptr<TileScratch> Take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return std::make_unique<TileScratch>();
    std::unique_ptr<TileScratch> scratch = std::move(free_.back());
    free_.pop_back();
    return scratch;
  }
  void Return(std::unique_ptr<TileScratch> scratch) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(scratch));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<TileScratch>> free_;
};

JournalUnit UnitOf(const Tile& tile) {
  return Unit(UnitKind::kTile, tile.tensor, static_cast<uint64_t>(tile.row));
}

// Whether a stopped run wrote the tile; then its result is that run's.
bool WasDone(const Journal* journal, Tile* tile) {
  const std::string* found = journal == nullptr ? nullptr : journal->FindUnit(UnitOf(*tile));
  return found != nullptr && UnpackTile(*found, &tile->result);
}

}  // namespace

std::vector<Tile> CutTiles(const std::vector<TensorInfo>& tensors, std::span<const size_t> which,
                           std::span<const Choice> choices) {
  double total = 0;
  for (const size_t i : which) total += static_cast<double>(tensors[i].elements());
  int64_t elements = kTileElements;
  while (total / static_cast<double>(elements) > static_cast<double>(kMostTiles)) elements *= 2;
  std::vector<Tile> tiles;
  for (const size_t i : which) {
    if (tensors[i].elements() == 0) continue;
    const int64_t rows = tensors[i].rows(), cols = tensors[i].cols();
    int64_t step = RowsOfTile(cols, elements);
    if (!choices.empty()) step = AlignTileRows(step, choices[i].encoding, cols);
    for (int64_t row = 0; row < rows; row += step) {
      tiles.push_back({i, row, std::min(step, rows - row), {}});
    }
  }
  return tiles;
}

Status WorkOnTiles(const Context& context, const std::vector<TensorInfo>& tensors, Journal* journal,
                   std::vector<Tile>* tiles, const TileWork& work) {
  PW_ASSIGN(const Context fitted, FitMemory(context, tensors, *tiles));
  ScratchPool pool;
  std::mutex mutex;
  int64_t done = 0;
  return ParallelTry(fitted, static_cast<int64_t>(tiles->size()), [&](int64_t i) -> Status {
    Tile& tile = (*tiles)[static_cast<size_t>(i)];
    if (!WasDone(journal, &tile)) {
      const auto start = std::chrono::steady_clock::now();
      std::unique_ptr<TileScratch> scratch = pool.Take();
      PW_TRY(work(&tile, scratch.get()));
      pool.Return(std::move(scratch));
      tile.result.seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (journal != nullptr) PW_TRY(journal->RecordUnit(UnitOf(tile), PackTile(tile.result)));
    }
    if (context.progress != nullptr) {
      const std::lock_guard<std::mutex> lock(mutex);
      context.progress->Advance(++done);
    }
    return OkStatus();
  });
}

}  // namespace pennyweight
