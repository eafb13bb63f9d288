// How long an encoder may look for better codes.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace pennyweight {

// kNormal is where the curve of error against time bends; kBest has a few parts in a thousand less
// error for several times the time.
enum class Effort : uint8_t { kFast, kNormal, kBest };

constexpr std::string_view EffortName(Effort effort) {
  return effort == Effort::kFast ? "fast" : effort == Effort::kBest ? "best" : "normal";
}

// nullopt when there is no such effort.
constexpr std::optional<Effort> FindEffort(std::string_view name) {
  for (const Effort effort : {Effort::kFast, Effort::kNormal, Effort::kBest}) {
    if (EffortName(effort) == name) return effort;
  }
  return std::nullopt;
}

}  // namespace pennyweight
