#include "calib/builtin_text.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace pennyweight {
namespace {

// Code points of valid UTF-8; {-1} when it is not valid.
std::vector<int32_t> CodePoints(std::string_view text) {
  std::vector<int32_t> points;
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const int extra = byte < 0x80       ? 0
                      : byte >> 5 == 6  ? 1
                      : byte >> 4 == 14 ? 2
                      : byte >> 3 == 30 ? 3
                                        : -1;
    if (extra < 0 || i + static_cast<size_t>(extra) >= text.size()) return {-1};
    int32_t point = extra == 0 ? byte : byte & (0x3F >> extra);
    for (int k = 1; k <= extra; ++k) {
      const auto next = static_cast<unsigned char>(text[i + static_cast<size_t>(k)]);
      if (next >> 6 != 2) return {-1};
      point = point << 6 | (next & 0x3F);
    }
    points.push_back(point);
    i += static_cast<size_t>(extra) + 1;
  }
  return points;
}

struct Script {
  const char* name;
  int32_t first, last;
};
constexpr Script kScripts[] = {
    {"Latin with accents", 0xC0, 0x17F},
    {"Greek", 0x370, 0x3FF},
    {"Cyrillic", 0x400, 0x4FF},
    {"Hebrew", 0x5D0, 0x5EA},
    {"Arabic", 0x620, 0x6FF},
    {"Devanagari", 0x900, 0x97F},
    {"Kana", 0x3041, 0x30FF},
    {"Han", 0x4E00, 0x9FFF},
    {"Hangul", 0xAC00, 0xD7A3},
};

std::vector<std::string_view> Documents(std::string_view text) {
  std::vector<std::string_view> documents;
  while (true) {
    const size_t at = text.find(kDocumentSeparator);
    documents.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return documents;
    text.remove_prefix(at + kDocumentSeparator.size());
  }
}

// What must be found in any large piece besides scripts: one mark of each kind of text.
const std::vector<std::vector<std::string_view>> kMarks = {
    {"namespace pennyweight"},                                // C++
    {"def ", "SELECT ", "fn ", "const ", "func ", "final "},  // other languages
    {"</", "\n## ", "\n- "},                                  // HTML, XML, Markdown
    {"\\frac"},                                               // LaTeX
    {"\": "},                                                 // JSON
    {" × "},                                                  // arithmetic
    {".\" ", "?\"", "Assistant:", "”"},                       // talk
};

TEST_CASE("the built-in text is large, valid UTF-8, and cut into documents of sane length") {
  const std::string text = BuiltinCalibrationText();
  CHECK(text.size() >= 512 * 1024);
  CHECK(text.size() < 2 * 1024 * 1024);
  const auto points = CodePoints(text);
  REQUIRE(points.size() > 1);
  CHECK(text.find('\0') == std::string::npos);
  CHECK(text.find('\r') == std::string::npos);

  const auto documents = Documents(text);
  CHECK(documents.size() > 150);
  for (const std::string_view document : documents) {
    CAPTURE(document.substr(0, 60));
    CHECK(document.size() >= 64);
    CHECK(document.size() <= 16 * 1024);
    CHECK(document.ends_with('\n'));
    CHECK(document.find("<|endoftext|>") == std::string_view::npos);
  }
  CHECK(std::set<std::string_view>(documents.begin(), documents.end()).size() == documents.size());
}

TEST_CASE("every quarter of it has prose, code, mathematics, markup and every script") {
  const std::string text = BuiltinCalibrationText();
  const size_t eighth = text.size() / 8;
  // The first piece is what a short calibration sees; the others show that nothing runs out.
  for (const size_t begin : {size_t{0}, eighth * 2, eighth * 4, eighth * 6}) {
    std::string piece = text.substr(begin, eighth * 2);
    // Cut at document borders, so that no code point is halved.
    if (begin > 0) piece = piece.substr(piece.find(kDocumentSeparator) + kDocumentSeparator.size());
    piece = piece.substr(0, piece.rfind(kDocumentSeparator));
    const auto points = CodePoints(piece);
    REQUIRE(points.size() > 1);
    CAPTURE(begin);
    for (const Script& script : kScripts) {
      int64_t count = 0;
      for (const int32_t point : points) count += point >= script.first && point <= script.last;
      CAPTURE(std::string(script.name));
      CHECK(count >= 20);
    }
    for (const auto& marks : kMarks) {
      CAPTURE(std::string(marks.front()));
      CHECK(std::any_of(marks.begin(), marks.end(), [&](std::string_view mark) {
        return piece.find(mark) != std::string::npos;
      }));
    }
  }
}

TEST_CASE("the text is the same at every call") {
  CHECK(BuiltinCalibrationText() == BuiltinCalibrationText());
}

}  // namespace
}  // namespace pennyweight
