// Statistics files that a user named, against the model they are to be of.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "formats/statistics_file.h"
#include "lib/model.h"
#include "lib/result.h"
#include "lib/statistics.h"

namespace pennyweight {

struct StatisticsInput {
  std::vector<StatisticsFile> files;
  Statistics merged;                 // of all of them
  std::vector<std::string> unknown;  // entries of matrices that the model does not have
};

StatisticsNames NamesOf(const Model& model);

// Opens and adds up files of any kind; `window`: tokens of a window, for the legacy ones. Entries
// of the embedding are no linear's, and are dropped. Errors: those of StatisticsFile::Open and
// AddStatistics; kInvalidTensor naming a matrix and both widths; kConfigInvalid for statistics of
// another model.
Result<StatisticsInput> OpenStatistics(std::span<const std::string> paths, const Model& model,
                                       int64_t window);

}  // namespace pennyweight
