// Work on the tensors of a whole model, cut into tiles of rows: each tile is wholly worked on by
// one task (read, decode, encode, measure, write), so that nothing waits for anything, small
// tensors keep all threads busy too, and memory is a few tiles whatever the tensors.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "calib/unit_result.h"
#include "lib/context.h"
#include "lib/journal.h"
#include "lib/result.h"
#include "lib/tensor.h"
#include "quant/mix.h"

namespace pennyweight {

// Rows [row, row + rows) of one tensor.
struct Tile {
  size_t tensor = 0;
  int64_t row = 0;
  int64_t rows = 0;
  TileResult result;
};

// The tiles of tensors `which` of a source's list, in their order; none for an empty tensor. A tile
// begins at a multiple of TensorSink::kTileRows. The cut depends on the shapes of the listed
// tensors only, never on the machine; with `choices` (parallel to the tensors) also on what they
// become, where scales span rows (AlignTileRows).
std::vector<Tile> CutTiles(const std::vector<TensorInfo>& tensors, std::span<const size_t> which,
                           std::span<const Choice> choices = {});

// Of a value of a tile that is worked on: read, written, and twice decoded, at most.
inline constexpr uint64_t kTileBytesPerValue = 8 + 8 + 4 + 4;

// Buffers of one tile; what they hold between tiles is unspecified.
struct TileScratch {
  EncodedTensor stored, encoded, piece;
  std::vector<float> values, decoded;
};

// Calls work(tile, scratch) for every tile that `journal` (may be null) does not have, on as many
// of the context's threads as context.memory_limit has room for, and records what each returned in
// tile->result. Tiles begin in their order. The context's progress is advanced by tiles.
// Errors: kMemory when not even one tile fits; kInterrupted; of `work` that of the first tile.
using TileWork = std::function<Status(Tile* tile, TileScratch* scratch)>;
Status WorkOnTiles(const Context& context, const std::vector<TensorInfo>& tensors, Journal* journal,
                   std::vector<Tile>* tiles, const TileWork& work);

}  // namespace pennyweight
