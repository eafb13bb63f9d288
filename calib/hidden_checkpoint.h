// The hidden states behind a decoder layer in a file, so that a stopped calibration goes on with
// the next layer instead of running the model again.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "calib/hidden_store.h"
#include "lib/result.h"

namespace pennyweight {

// Layout: u64 layer, u64 stores, per store u64 tokens and u64 width, then the floats of each store,
// then XXH3-128 of all that. The file appears when it is whole.
// Errors: kNoSpace, kIo.
Status SaveHidden(const std::string& path, int64_t layer, std::span<const HiddenStore* const> from);

// False when the file is missing, damaged, or of another layer or other sizes; the stores may have
// been written over then. Errors: those of HiddenStore::Write.
Result<bool> LoadHidden(const std::string& path, int64_t layer, std::span<HiddenStore* const> to);

}  // namespace pennyweight
