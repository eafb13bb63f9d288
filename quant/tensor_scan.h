// What `verify` looks for in the values of one tensor, in one pass together with its fingerprint.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/hash.h"
#include "lib/tensor.h"
#include "quant/value_scan.h"

namespace pennyweight {

// How many of a kind, and where the first is: an index into elements, blocks or groups.
struct Sightings {
  uint64_t count = 0;
  int64_t first = -1;

  void Add(int64_t index) {
    if (count++ == 0) first = index;
  }
};

struct TensorScan {
  // XXH3-128 of the stored bytes in the order of rows. Of a tensor in parts (codes, scales, zero
  // points): of the parts' fingerprints, so that it does not depend on the layout.
  Hash128 hash = {};
  // Elements. A C64 counts as two.
  Sightings nan, inf;
  bool zero = false;       // every value is 0 (every scale, of blocks)
  bool constant = false;   // every value has the same bits; plain elements only
  bool fits_bf16 = false;  // F32 only: the low 16 bits of all are 0
  bool fits_f16 = false;   // F32 only: all come back the same from F16
  // Blocks, or groups of integers: elements / blocks, in the order of rows.
  Sightings bad_scales;       // NaN or infinite
  Sightings negative_scales;  // of groups only: blocks of GGUF have them by design
  Sightings lost_codes;       // codes other than 0 under the scale 0
};

// Takes the tiles of one tensor in the order of its rows, without a gap.
class TensorScanner {
 public:
  explicit TensorScanner(const TensorInfo& info);
  void Add(const EncodedTensor& tile);
  TensorScan Finish();

 private:
  void AddPlain(const uint8_t* data, uint64_t bytes);
  void AddBlocks(const uint8_t* data, uint64_t bytes);
  void AddGroups(const EncodedTensor& tile);
  // Index and kind of each NaN and Inf of a run that has some.
  void Locate(const uint8_t* data, size_t count);

  Encoding encoding_;
  SpecialValues special_;
  TensorScan scan_;
  Hasher hash_, code_hash_, scale_hash_, zero_hash_;
  bool in_parts_ = false;
  bool fresh_ = true;
  uint64_t first_ = 0;  // bits of the first value
  uint64_t any_ = 0, differ_ = 0;
  bool fits_f16_ = true;
  bool nonzero_ = false;  // some scale of a block or group is not 0
  int64_t at_ = 0;        // elements, blocks or groups so far
};

}  // namespace pennyweight
