// How long to search for scales.
#pragma once

#include <cstdint>

namespace pennyweight {

// kNormal is where the curve of error against time bends; kBest has a few parts in a thousand less
// error for several times the time.
enum class Effort : uint8_t { kFast, kNormal, kBest };

}  // namespace pennyweight
