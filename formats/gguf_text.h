// Text and numbers of untrusted headers, for names and for people.
#pragma once

#include <string>
#include <string_view>

namespace pennyweight {

// Valid UTF-8 without control characters: fit to be a name.
bool IsPlainText(std::string_view text);
// The text with every byte that is not UTF-8, and every control character but newline and tab, as
// "\xNN".
std::string EscapeText(std::string_view text);
// The double that prints as the float does: 1e-5f becomes 1e-5, not 9.99999975e-06. Configuration
// values were typed in decimal and stored as floats.
double ShortestDouble(float value);

}  // namespace pennyweight
