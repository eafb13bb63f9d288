#include "calib/tokenizer_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "lib/utf8.h"

namespace pennyweight {
namespace {

constexpr size_t kBlockBytes = 1 << 16;
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

bool IsAscii(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

int CombiningClass(utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; }

// Runs of combining marks in the order of their classes. utf8proc's own sorting is quadratic in the
// length of a run.
void OrderMarks(std::vector<utf8proc_int32_t>* characters) {
  const auto is_mark = [](utf8proc_int32_t c) { return CombiningClass(c) != 0; };
  auto at = characters->begin();
  while (at != characters->end()) {
    const auto begin = std::find_if(at, characters->end(), is_mark);
    at = std::find_if_not(begin, characters->end(), is_mark);
    std::ranges::stable_sort(begin, at, {}, CombiningClass);
  }
}

// False when utf8proc refuses, which it has no reason to.
bool AppendNfc(std::string_view text, std::vector<utf8proc_int32_t>* buffer, std::string* out) {
  buffer->clear();
  int boundary = 0;
  for (size_t i = 0; i < text.size(); i += Utf8Length(text, i)) {
    const auto c = static_cast<utf8proc_int32_t>(CharacterAt(text, i));
    utf8proc_int32_t parts[8];
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(c, parts, 8, UTF8PROC_DECOMPOSE, &boundary);
    if (count < 1 || count > 8) return false;
    buffer->insert(buffer->end(), parts, parts + count);
  }
  OrderMarks(buffer);
  const utf8proc_ssize_t length =
      utf8proc_normalize_utf32(buffer->data(), static_cast<utf8proc_ssize_t>(buffer->size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
  if (length < 0) return false;
  for (utf8proc_ssize_t i = 0; i < length; ++i) {
    utf8proc_uint8_t bytes[4];
    const utf8proc_ssize_t count = utf8proc_encode_char((*buffer)[static_cast<size_t>(i)], bytes);
    out->append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(count));
  }
  return true;
}

}  // namespace

bool IsUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t length = Utf8Length(text, i);
    if (length == 0) return false;
    i += length;
  }
  return true;
}

std::string ReplaceMalformed(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t length = Utf8Length(text, i);
    out += length == 0 ? kReplacement : text.substr(i, length);
    i += std::max<size_t>(length, 1);
  }
  return out;
}

std::string NormalizeNfc(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  std::vector<utf8proc_int32_t> buffer;
  while (!text.empty()) {
    // No ASCII character composes with what stands before it, so a text may be cut there.
    size_t end = std::min(kBlockBytes, text.size());
    while (end < text.size() && static_cast<unsigned char>(text[end]) >= 0x80) ++end;
    const std::string_view block = text.substr(0, end);
    text.remove_prefix(end);
    const size_t before = out.size();
    if (IsAscii(block) || !AppendNfc(block, &buffer, &out)) {
      out.resize(before);
      out += block;
    }
  }
  return out;
}

char32_t CharacterAt(std::string_view text, size_t i) {
  const auto byte = [&](size_t k) { return static_cast<unsigned char>(text[i + k]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return lead;
  if (lead < 0xE0) return (lead & 0x1Fu) << 6 | (byte(1) & 0x3Fu);
  if (lead < 0xF0) return (lead & 0x0Fu) << 12 | (byte(1) & 0x3Fu) << 6 | (byte(2) & 0x3Fu);
  return (lead & 0x07u) << 18 | (byte(1) & 0x3Fu) << 12 | (byte(2) & 0x3Fu) << 6 |
         (byte(3) & 0x3Fu);
}

bool IsWhiteSpace(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool IsWordCharacter(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      // Join controls, and the circled and squared letters, which are symbols by category.
      return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) ||
             (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
             (c >= 0x1F170 && c <= 0x1F189);
  }
}

}  // namespace pennyweight
