// Text before it is tokenized: well-formed, and in Unicode's form NFC.
#pragma once

#include <string>
#include <string_view>

namespace pennyweight {

// True when every byte belongs to a UTF-8 character.
bool IsUtf8(std::string_view text);

// Every byte that belongs to no UTF-8 character becomes U+FFFD.
std::string ReplaceMalformed(std::string_view text);

// Unicode's Normalization Form C (UAX #15), of utf8proc's version of Unicode. Linear but for the
// sorting of combining marks. Precondition: `text` is UTF-8.
std::string NormalizeNfc(std::string_view text);

// The character at `i`, which begins one. Precondition: `text` is UTF-8.
char32_t CharacterAt(std::string_view text, size_t i);

// Unicode's White_Space.
bool IsWhiteSpace(char32_t c);
// \w of Unicode's regular expressions (UTS #18): letters, marks, digits, connectors.
bool IsWordCharacter(char32_t c);

}  // namespace pennyweight
