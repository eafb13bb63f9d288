#include "formats/gguf_text.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdint>

#include "lib/utf8.h"

namespace pennyweight {
namespace {

bool IsControl(char c) {
  const auto byte = static_cast<uint8_t>(c);
  return byte < 0x20 || byte == 0x7F;
}

}  // namespace

bool IsPlainText(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = Utf8Length(text, at);
    if (bytes == 0 || IsControl(text[at])) return false;
    at += bytes;
  }
  return true;
}

std::string EscapeText(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = Utf8Length(text, at);
    const char c = text[at];
    if (bytes == 0 || (IsControl(c) && c != '\n' && c != '\t')) {
      out += fmt::format("\\x{:02X}", static_cast<uint8_t>(c));
      ++at;
      continue;
    }
    out += text.substr(at, bytes);
    at += bytes;
  }
  return out;
}

double ShortestDouble(float value) {
  if (!std::isfinite(value)) return value;
  char text[32];
  const auto printed = std::to_chars(text, text + sizeof(text), value);
  double out = value;
  std::from_chars(text, printed.ptr, out);
  return out;
}

}  // namespace pennyweight
