#include "calib/builtin_text.h"

#include <zstd.h>

#include <cstddef>
#include <cstdint>

namespace pennyweight {

// Written at build time by cmake/embed_text.cc.
namespace builtin_text {
extern const size_t kTextBytes;
extern const size_t kCompressedBytes;
extern const uint8_t kCompressed[];
}  // namespace builtin_text

std::string BuiltinCalibrationText() {
  std::string text(builtin_text::kTextBytes, '\0');
  const size_t size = ZSTD_decompress(text.data(), text.size(), builtin_text::kCompressed,
                                      builtin_text::kCompressedBytes);
  // The bytes are our own; if they do not decompress, an empty text is answered downstream with
  // kTextTooShort rather than calibrating on rubbish.
  if (ZSTD_isError(size) || size != text.size()) return std::string();
  return text;
}

}  // namespace pennyweight
