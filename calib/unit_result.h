// What a finished piece of work adds to the report, as the journal keeps it: a run that is resumed
// reports what an undisturbed one would.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "calib/matrix_job.h"
#include "lib/journal.h"
#include "lib/report.h"
#include "quant/metrics.h"

namespace pennyweight {

// JournalUnit::kind of the commands that write models.
enum class UnitKind : uint32_t {
  kTile = 1,       // a: tensor, b: first row
  kEmbedding = 3,  // the calibrated walk
  kLayer = 4,      // a: layer
  kHead = 5,
  kInput = 8,  // a: input of a statistics file with Hessians
};

inline JournalUnit Unit(UnitKind kind, uint64_t a = 0, uint64_t b = 0) {
  return {static_cast<uint32_t>(kind), a, b};
}

// A tile of rows of one tensor, in a run without calibration.
struct TileResult {
  WeightError error;
  double seconds = 0;
  int64_t kept_non_finite = 0;  // values of a plain tensor that stay NaN or infinite
};
std::string PackTile(const TileResult& tile);
// False when the bytes are not what PackTile makes.
bool UnpackTile(std::string_view bytes, TileResult* tile);

// One or more tensors of quantize, with the sums over all tensors so far, and the layer they make
// up, if they do.
struct TensorsResult {
  std::vector<size_t> tensors;
  ErrorSums sums;
  std::optional<LayerReport> layer;  // what bytes and worst_tensor are not told by
  std::string folds;                 // FoldRecordToJson of what was folded into these tensors
};
// `reports`: of all tensors. The fields that the work fills are kept, not those that describe.
std::string PackTensors(const TensorsResult& result, const std::vector<TensorReport>& reports);
// False, and nothing changed, when the bytes are not what PackTensors makes for so many tensors.
bool UnpackTensors(std::string_view bytes, TensorsResult* result,
                   std::vector<TensorReport>* reports);

}  // namespace pennyweight
