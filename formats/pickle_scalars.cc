// The opcodes that make numbers and texts.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <optional>
#include <string>

#include "formats/pickle_machine.h"
#include "lib/limits.h"

namespace pennyweight {
namespace {

void AppendUtf8(uint32_t code, std::string* out) {
  const auto tail = [&](int shift) {
    out->push_back(static_cast<char>(0x80 | ((code >> shift) & 0x3F)));
  };
  if (code < 0x80) {
    out->push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out->push_back(static_cast<char>(0xC0 | (code >> 6)));
    tail(0);
  } else if (code < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | (code >> 12)));
    tail(6);
    tail(0);
  } else {
    out->push_back(static_cast<char>(0xF0 | (code >> 18)));
    tail(12);
    tail(6);
    tail(0);
  }
}

// The number of `digits` hexadecimal digits at the front of `text`.
std::optional<uint32_t> Hex(std::string_view text, size_t digits) {
  uint32_t value = 0;
  if (text.size() < digits) return std::nullopt;
  const auto [end, error] = std::from_chars(text.data(), text.data() + digits, value, 16);
  if (error != std::errc() || end != text.data() + digits) return std::nullopt;
  return value;
}

// Text between quotes as repr() of Python 2 writes it; nullopt when malformed. Never longer.
std::optional<std::string> Unquote(std::string_view text) {
  if (text.size() < 2 || text.front() != text.back()) return std::nullopt;
  if (text.front() != '\'' && text.front() != '"') return std::nullopt;
  const char quote = text.front();
  text = text.substr(1, text.size() - 2);
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == quote) return std::nullopt;
    if (text[i] != '\\') {
      out.push_back(text[i]);
      continue;
    }
    if (++i == text.size()) return std::nullopt;
    constexpr std::string_view kFrom = "\\'\"abfnrtv";
    constexpr std::string_view kTo = "\\'\"\a\b\f\n\r\t\v";
    const size_t simple = kFrom.find(text[i]);
    if (simple != std::string_view::npos) {
      out.push_back(kTo[simple]);
      continue;
    }
    const auto code = Hex(text.substr(i + 1), 2);
    if (text[i] != 'x' || !code) return std::nullopt;
    out.push_back(static_cast<char>(*code));
    i += 2;
  }
  return out;
}

// Text in Python's raw-unicode-escape, ASCII only; nullopt when malformed. Never longer.
std::optional<std::string> UnescapeUnicode(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (static_cast<unsigned char>(text[i]) >= 0x80) return std::nullopt;
    const bool escape =
        text[i] == '\\' && i + 1 < text.size() && (text[i + 1] == 'u' || text[i + 1] == 'U');
    if (!escape) {
      out.push_back(text[i]);
      continue;
    }
    const size_t digits = text[i + 1] == 'u' ? 4 : 8;
    const auto code = Hex(text.substr(i + 2), digits);
    if (!code || *code > 0x10FFFF || (*code >= 0xD800 && *code < 0xE000)) return std::nullopt;
    AppendUtf8(*code, &out);
    i += 1 + digits;
  }
  return out;
}

}  // namespace

// An integer of two's complement; `text` is where it stands.
Status PickleMachine::PushInteger(std::string_view little_endian, uint64_t text) {
  if (little_endian.size() > limits::kPickleIntegerBytes) {
    return Error(ErrorCode::kLimit, fmt::format("an integer of {} bytes; at most {} are taken",
                                                little_endian.size(), limits::kPickleIntegerBytes))
        .At(begin_ + op_at_);
  }
  if (little_endian.size() > 8) return Push(PickleKind::kBigInteger, text);
  const bool negative = !little_endian.empty() && (little_endian.back() & 0x80) != 0;
  uint64_t value = negative ? ~uint64_t{0} : 0;
  std::memcpy(&value, little_endian.data(), little_endian.size());
  return Push(PickleKind::kInteger, value);
}

// INT and LONG of protocol 0: "12", "01" (true), "00" (false); LONG has an L behind.
Status PickleMachine::IntegerLine(bool is_long) {
  PW_ASSIGN(const uint64_t line, ReadLine());
  std::string_view digits = View(line);
  if (!is_long && (digits == "00" || digits == "01")) {
    return Push(PickleKind::kBool, digits == "01" ? 1 : 0);
  }
  if (is_long && !digits.empty() && digits.back() == 'L') digits.remove_suffix(1);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) {
    return Fail("an integer of the pickle is malformed or too large");
  }
  return Push(PickleKind::kInteger, static_cast<uint64_t>(value));
}

Result<bool> PickleMachine::NumberOp(uint8_t op) {
  switch (op) {
    case 'N':
      PW_TRY(Push(PickleKind::kNone, 0));
      return true;
    case 0x88:  // NEWTRUE
    case 0x89:  // NEWFALSE
      PW_TRY(Push(PickleKind::kBool, op == 0x88 ? 1 : 0));
      return true;
    case 'K': {  // BININT1
      PW_ASSIGN(const uint8_t value, Read<uint8_t>());
      PW_TRY(Push(PickleKind::kInteger, value));
      return true;
    }
    case 'M': {  // BININT2
      PW_ASSIGN(const uint16_t value, Read<uint16_t>());
      PW_TRY(Push(PickleKind::kInteger, value));
      return true;
    }
    case 'J': {  // BININT, signed
      PW_ASSIGN(const uint32_t bits, Read<uint32_t>());
      const int64_t value = static_cast<int32_t>(bits);
      PW_TRY(Push(PickleKind::kInteger, static_cast<uint64_t>(value)));
      return true;
    }
    case 0x8a: {  // LONG1
      PW_ASSIGN(const uint8_t bytes, Read<uint8_t>());
      PW_ASSIGN(const uint64_t text, ReadText(bytes));
      PW_TRY(PushInteger(View(text), text));
      return true;
    }
    case 0x8b: {  // LONG4, whose length is signed
      PW_ASSIGN(const uint32_t bytes, Read<uint32_t>());
      if (bytes > INT32_MAX) return Fail("an integer of the pickle has a negative length");
      PW_ASSIGN(const uint64_t text, ReadText(bytes));
      PW_TRY(PushInteger(View(text), text));
      return true;
    }
    case 'G': {  // BINFLOAT, big-endian
      PW_ASSIGN(const uint64_t bits, Read<uint64_t>());
      PW_TRY(Push(PickleKind::kFloat, __builtin_bswap64(bits)));
      return true;
    }
    case 'F': {  // FLOAT
      PW_ASSIGN(const uint64_t line, ReadLine());
      const std::string_view digits = View(line);
      double value = 0;
      const auto [end, error] =
          std::from_chars(digits.data(), digits.data() + digits.size(), value);
      if (error != std::errc() || end != digits.data() + digits.size()) {
        return Fail("a number of the pickle is malformed");
      }
      PW_TRY(Push(PickleKind::kFloat, std::bit_cast<uint64_t>(value)));
      return true;
    }
    case 'I':
    case 'L':
      PW_TRY(IntegerLine(op == 'L'));
      return true;
    default:
      return false;
  }
}

Status PickleMachine::AddString(PickleKind kind, uint64_t bytes) {
  PW_ASSIGN(const uint64_t text, ReadText(bytes));
  return Push(kind, text);
}

// STRING of protocol 0. The text is put over the quoted line, which it never exceeds.
Status PickleMachine::QuotedLine() {
  PW_ASSIGN(const uint64_t line, ReadLine());
  const auto text = Unquote(View(line));
  if (!text) return Fail("a quoted string of the pickle is malformed");
  std::copy(text->begin(), text->end(),
            out_.buffer_.begin() + static_cast<std::ptrdiff_t>(line >> 32));
  return Push(PickleKind::kString, (line >> 32) << 32 | text->size());
}

Status PickleMachine::UnicodeLine() {
  PW_ASSIGN(const uint64_t line, ReadLine());
  const auto text = UnescapeUnicode(View(line));
  if (!text) return Fail("a unicode string of the pickle is malformed or not ASCII");
  std::copy(text->begin(), text->end(),
            out_.buffer_.begin() + static_cast<std::ptrdiff_t>(line >> 32));
  return Push(PickleKind::kString, (line >> 32) << 32 | text->size());
}

Result<bool> PickleMachine::TextOp(uint8_t op) {
  uint64_t bytes = 0;
  PickleKind kind = PickleKind::kString;
  switch (op) {
    case 'S':
      PW_TRY(QuotedLine());
      return true;
    case 'V':
      PW_TRY(UnicodeLine());
      return true;
    case 'C':     // SHORT_BINBYTES
    case 'U':     // SHORT_BINSTRING
    case 0x8c: {  // SHORT_BINUNICODE
      PW_ASSIGN(bytes, Read<uint8_t>());
      if (op == 'C') kind = PickleKind::kBytes;
      break;
    }
    case 'B':    // BINBYTES
    case 'T':    // BINSTRING, whose length is signed
    case 'X': {  // BINUNICODE
      PW_ASSIGN(bytes, Read<uint32_t>());
      if (op == 'B') kind = PickleKind::kBytes;
      if (op == 'T' && bytes > INT32_MAX) return Fail("a string has a negative length");
      break;
    }
    case 0x8d:    // BINUNICODE8
    case 0x8e:    // BINBYTES8
    case 0x96: {  // BYTEARRAY8
      PW_ASSIGN(bytes, Read<uint64_t>());
      if (op != 0x8d) kind = PickleKind::kBytes;
      break;
    }
    default:
      return false;
  }
  PW_TRY(AddString(kind, bytes));
  return true;
}

}  // namespace pennyweight
