// llama.cpp's importance matrix as it was before GGUF, which ik_llama.cpp still writes. Little
// endian, without magic: i32 entries; of each i32 bytes and the name, i32 calls, i32 values, f32
// values; then perhaps i32 windows, i32 bytes and the name of the text. A value is the mean of x^2
// times the calls; "calls" are windows. Experts lie behind each other, those that saw nothing as 1
// times the calls. Source: llama.cpp, tools/imatrix/imatrix.cpp, August 2026.
#pragma once

#include <string>

#include "formats/statistics_names.h"
#include "lib/result.h"
#include "lib/statistics.h"

namespace pennyweight {

// `window`: tokens of a window, which the file does not tell: means become sums by it, as
// llama.cpp does when it adds such a file to others.
// Errors: kTruncated, kUnknownFormat (what no such file begins with), kDuplicateKey, those of
// AddImatrixEntry and ReadFile, with the offset.
Result<Statistics> ReadImatrixLegacy(const std::string& path, const StatisticsNames& names,
                                     int64_t window);

// Entries that saw nothing at all are left out, as llama.cpp does. Errors: kOverflow (a number that
// does not fit the format's 32 bits), those of OutputFile.
Status WriteImatrixLegacy(const std::string& path, bool force, const Statistics& statistics,
                          const StatisticsNames& names);

}  // namespace pennyweight
