// AuditTemplate of formats/audit.h. Chat templates are programs: CVE-2024-34359 ran Python through
// one, and a template that answers some messages differently is a way to poison a model.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "formats/audit.h"
#include "lib/utf8.h"

namespace pennyweight {
namespace {

constexpr int64_t kLongLoop = 100'000;

// The code point of a well-formed character of `n` bytes.
uint32_t CodePoint(std::string_view text, size_t i, size_t n) {
  const auto byte = [&](size_t k) { return static_cast<unsigned char>(text[i + k]); };
  if (n == 1) return byte(0);
  uint32_t value = byte(0) & (0xFFu >> (n + 1));
  for (size_t k = 1; k < n; ++k) value = value << 6 | (byte(k) & 0x3Fu);
  return value;
}

// Characters without a shape: zero width, marks and overrides of direction, tags. A byte order mark
// at the start is none of these.
bool IsInvisible(uint32_t c) {
  return c == 0xAD || c == 0x61C || c == 0x180E || (c >= 0x200B && c <= 0x200F) ||
         (c >= 0x202A && c <= 0x202E) || (c >= 0x2060 && c <= 0x2069) || c == 0xFEFF ||
         (c >= 0xE0000 && c <= 0xE007F);
}

bool IsWordByte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

// `word` with no letter before it.
bool ContainsWord(std::string_view text, std::string_view word) {
  for (size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) {
    if (at == 0 || !IsWordByte(text[at - 1])) return true;
  }
  return false;
}

// The expressions and statements between {{ }} and {% %}, one after the other: what is run.
std::string CodeOf(std::string_view text) {
  std::string code;
  for (size_t at = 0; at + 1 < text.size();) {
    const bool opens = text[at] == '{' && (text[at + 1] == '{' || text[at + 1] == '%');
    if (!opens) {
      ++at;
      continue;
    }
    const std::string_view close = text[at + 1] == '{' ? "}}" : "%}";
    const size_t end = std::min(text.find(close, at + 2), text.size());
    code += text.substr(at + 2, end - at - 2);
    code += '\n';
    at = end;
  }
  return code;
}

// The largest number that stands right behind "range(" or a comma of it.
int64_t LargestRange(std::string_view code) {
  int64_t largest = 0;
  for (size_t at = code.find("range("); at != std::string_view::npos;
       at = code.find("range(", at + 1)) {
    const std::string_view rest = code.substr(at + 6, 200);
    const std::string_view arguments = rest.substr(0, rest.find(')'));
    for (size_t i = 0; i < arguments.size(); ++i) {
      if (i > 0 && IsWordByte(arguments[i - 1])) continue;
      int64_t value = 0;
      const auto [end, code_error] =
          std::from_chars(arguments.data() + i, arguments.data() + arguments.size(), value);
      if (code_error == std::errc::result_out_of_range) value = INT64_MAX;
      largest = std::max(largest, value);
    }
  }
  return largest;
}

// "'text' in message['content']" and the like: a test of what a message says.
bool TestsContent(std::string_view code) {
  for (const std::string_view in : {"' in ", "\" in "}) {
    for (size_t at = code.find(in); at != std::string_view::npos; at = code.find(in, at + 1)) {
      const std::string_view rest = code.substr(at + in.size(), 60);
      const std::string_view operand = rest.substr(0, rest.find_first_of("\n%"));
      if (operand.starts_with("message") || operand.find("content") != std::string_view::npos) {
        // 'content' in message asks for a key, which is harmless.
        if (operand.find("content") != std::string_view::npos) return true;
      }
    }
  }
  for (const std::string_view call : {"content.lower(", "content'].lower(", "content\"].lower("}) {
    if (code.find(call) != std::string_view::npos) return true;
  }
  return false;
}

}  // namespace

std::vector<Finding> AuditTemplate(std::string_view text, const std::string& file) {
  std::vector<Finding> findings;
  const auto add = [&](std::string_view rule, std::string message) {
    findings.push_back({.rule = rule, .message = std::move(message), .file = file});
  };
  const std::string code = CodeOf(text);
  for (const std::string_view word : {"__", "import ", "open(", "eval(", "exec(", "popen", "mro(",
                                      "subclasses", "globals", "attr("}) {
    const bool found =
        word == "__" ? code.find(word) != std::string::npos : ContainsWord(code, word);
    if (!found) continue;
    add("TPL-CODE", fmt::format("the chat template has \"{}\" in its code", word));
    break;
  }
  if (const int64_t loop = LargestRange(code); loop > kLongLoop) {
    add("TPL-LOOP", fmt::format("the chat template loops over range({})", loop));
  }
  for (size_t i = 0; i < text.size();) {
    const size_t n = std::max<size_t>(Utf8Length(text, i), 1);
    const uint32_t c = CodePoint(text, i, n);
    if (IsInvisible(c) && !(c == 0xFEFF && i == 0)) {
      add("TPL-HIDDEN-TEXT",
          fmt::format("the chat template has the invisible character U+{:04X} at byte {}", c, i));
      break;
    }
    i += n;
  }
  if (TestsContent(code)) {
    add("TPL-CONDITION", "the chat template asks what the text of a message says");
  }
  return findings;
}

}  // namespace pennyweight
