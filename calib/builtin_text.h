// The calibration text that is part of the program, for when the user names none.
#pragma once

#include <string>
#include <string_view>

namespace pennyweight {

// The line that parts the documents.
inline constexpr std::string_view kDocumentSeparator = "<|endoftext|>\n";

// The whole text, decompressed: UTF-8, more than 512 KiB; documents of all kinds (prose, dialogue,
// code, mathematics, many scripts, markup) in turn, so that every prefix holds some of each; parted
// by kDocumentSeparator. What is in it and where it comes from: calib/text/PROVENANCE.md.
std::string BuiltinCalibrationText();

}  // namespace pennyweight
