// llama.cpp's importance matrix as a GGUF file: general.type "imatrix", imatrix.datasets (texts),
// imatrix.chunk_count and imatrix.chunk_size (windows, and tokens of one); per tensor two F32
// tensors, NAME.in_sum2 [matrices, width] and NAME.counts [matrices, 1], without the leading
// dimension where there is one matrix. Source: llama.cpp, tools/imatrix/imatrix.cpp, August 2026.
#pragma once

#include <string>
#include <string_view>

#include "formats/statistics_names.h"
#include "lib/result.h"
#include "lib/statistics.h"

namespace pennyweight {

// Endings of tensors, and keys.
inline constexpr std::string_view kImatrixSums = ".in_sum2";
inline constexpr std::string_view kImatrixCounts = ".counts";
inline constexpr std::string_view kImatrixDatasets = "imatrix.datasets";
inline constexpr std::string_view kImatrixChunkCount = "imatrix.chunk_count";
inline constexpr std::string_view kImatrixChunkSize = "imatrix.chunk_size";

// Tensors with other endings are passed over, as llama.cpp does. Errors: those of GgufFile::Open
// and AddImatrixEntry; kInvalidTensor (no F32, sums without counts or the reverse), kUnknownFormat
// (no entry at all: another kind of GGUF file).
Result<Statistics> ReadImatrixGguf(const std::string& path, const StatisticsNames& names);

// Errors: kInvalidName (a name that does not fit the format's 63 bytes), those of GgufOutput.
Status WriteImatrixGguf(const std::string& path, bool force, const Statistics& statistics,
                        const StatisticsNames& names);

}  // namespace pennyweight
