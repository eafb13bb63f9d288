// Base64 (RFC 4648, section 4), with padding.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pennyweight {

std::string EncodeBase64(std::span<const uint8_t> bytes);
// nullopt when the text is not what EncodeBase64 makes: foreign characters, line ends, padding that
// is missing, or bits behind the last byte.
std::optional<std::vector<uint8_t>> DecodeBase64(std::string_view text);

}  // namespace pennyweight
