// The config_groups of a compressed-tensors quantization_config: what its linears must look like.
#pragma once

#include <string>
#include <vector>

#include "formats/json_fields.h"
#include "lib/result.h"

namespace pennyweight {

struct GroupRule {
  enum class Strategy : uint8_t { kTensor, kChannel, kGroup, kBlock };
  std::string name;
  bool integer = true;  // else floats
  int bits = 4;
  Strategy strategy = Strategy::kChannel;
  int64_t group_size = 0;                      // kGroup; 0: one scale per row
  int64_t block_rows = 128, block_cols = 128;  // kBlock
  bool symmetric = true;

  std::string ToString() const;
};

// Everything that would change the meaning of the weights and is not read here is refused by name.
// Errors: kConfigMissing, kConfigInvalid, kUnsupported.
Result<std::vector<GroupRule>> ParseGroupRules(const JsonFields& fields);

}  // namespace pennyweight
