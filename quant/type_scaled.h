// The names of types whose values are elements of a small set times a scale.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/encoding.h"

namespace pennyweight {

// "fp8_e4m3", "fp8_e5m2" (also with _tensor, _channel or _bNxM; without: _channel), "nf4", "fp4"
// (also with _bN; without: _b64), "mxfp4", "nvfp4". nullopt when there is no such type.
std::optional<Encoding> FindScaledType(std::string_view name);
// Those names without what may follow them.
std::vector<std::string> ScaledTypeNames();

// Whether the type is one of these: mixes treat them as they do integers, and leave embedding and
// head plain.
bool IsScaledType(const Encoding& encoding);

}  // namespace pennyweight
