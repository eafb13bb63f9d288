// --strict: what a run did not do as it was asked to.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lib/report.h"
#include "quant/mix.h"

namespace pennyweight {

// Rows that an input should have been seen on, without --min-tokens: one default window.
inline constexpr int64_t kMinTokens = 512;

// One line per reason: matrices that were calibrated on fewer than min_tokens rows, and matrices
// that fell back to another type or method than what was asked for. Choices are parallel to the
// report's tensors. Empty: nothing.
std::vector<std::string> Shortfalls(const Report& report, std::span<const Choice> choices,
                                    int64_t min_tokens);

}  // namespace pennyweight
