// What the readers of GPTQ and AWQ share: the parts of a linear, their forms, groups and scales.
#pragma once

#include <functional>
#include <string>

#include "formats/gptq_reader.h"
#include "formats/packed_tensors.h"

namespace pennyweight {

struct GptqParts {
  int64_t qweight = PartsIndex::kNone;
  int64_t qzeros = PartsIndex::kNone;
  int64_t scales = PartsIndex::kNone;
  int64_t g_idx = PartsIndex::kNone;  // may be absent
};

// Errors: kTensorMissing.
Result<GptqParts> FindGptqParts(const PartsIndex& index, const std::string& prefix,
                                int64_t qweight);

// Dtypes and ranks; qzeros and scales have the same number of groups.
Status CheckGptqForms(const PartsIndex& index, const GptqParts& parts);

// Columns that share a scale, 0 for whole rows, from the number of groups for rows of `cols`.
// Errors: kUnsupported when rows do not divide into groups, kInvalidTensor when the config says
// otherwise.
Result<int64_t> GroupSize(const PartsIndex& index, const GptqParts& parts, int64_t cols,
                          const GptqConfig& config);

// The group of each column, checked against the number of groups; empty when column k is in group
// k / (cols / groups). Errors: kInvalidTensor. Precondition: groups divide cols.
Result<std::vector<int32_t>> ReadColumnGroups(const PartsIndex& index, int64_t g_idx, int64_t cols,
                                              int64_t groups);

// Fills out->scales [count, G] from scales [G, N].
Status ReadGroupScales(const TensorSource& source, const GptqParts& parts, int64_t row,
                       int64_t count, EncodedTensor* out);

// True when for some qweight with scales `fits` holds of the columns of both.
bool AnyLinear(const PartsIndex& index,
               const std::function<bool(int64_t packed, int64_t outputs)>& fits);

}  // namespace pennyweight
