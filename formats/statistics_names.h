// Names of matrices in imatrix files: GGUF's, with the experts of a layer stacked in one entry.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/allowance.h"
#include "lib/arch/family.h"
#include "lib/result.h"
#include "lib/statistics.h"

namespace pennyweight {

// The model that statistics are of, as far as names go.
struct StatisticsNames {
  const Family* family = nullptr;  // nullptr: names are left as they are
  int64_t experts = 0;             // of a layer
};

// As an imatrix file lists it.
struct ImatrixEntry {
  std::string name;           // of the GGUF tensor
  std::vector<float> sums;    // [counts.size(), width]: sum of x^2 over tokens
  std::vector<float> counts;  // tokens; one per expert, or one for all
};

// One entry per GGUF tensor, sorted by name. Experts that the statistics do not have get a count
// of 0. Errors: kInvalidTensor when experts of one tensor differ in width.
Result<std::vector<ImatrixEntry>> ToImatrixEntries(const Statistics& statistics,
                                                   const StatisticsNames& names);

// Adds an entry under Hugging Face's names; old entries with one count for all experts are spread
// over them. `allowance` is charged with what is kept. Errors: kNonFinite, kInvalidTensor (negative
// or missing values, counts and sums that do not divide, another number of experts), kLimit,
// kInvalidName.
Status AddImatrixEntry(const ImatrixEntry& entry, const StatisticsNames& names,
                       Allowance* allowance, Statistics* statistics);

}  // namespace pennyweight
