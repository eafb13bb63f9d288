#include "lib/blob.h"

#include <bit>

namespace pennyweight {

void BlobWriter::Unsigned(uint64_t value) {
  for (int shift = 0; shift < 64; shift += 8) bytes_ += static_cast<char>(value >> shift & 0xff);
}

void BlobWriter::Double(double value) { Unsigned(std::bit_cast<uint64_t>(value)); }

void BlobWriter::Optional(const std::optional<double>& value) {
  Unsigned(value ? 1 : 0);
  Double(value.value_or(0));
}

void BlobWriter::Text(std::string_view value) {
  Unsigned(value.size());
  bytes_ += value;
}

std::string_view BlobReader::Take(size_t bytes) {
  if (!ok_ || bytes > rest_.size()) {
    ok_ = false;
    return {};
  }
  const std::string_view taken = rest_.substr(0, bytes);
  rest_.remove_prefix(bytes);
  return taken;
}

uint64_t BlobReader::Unsigned() {
  const std::string_view bytes = Take(8);
  uint64_t value = 0;
  for (size_t i = bytes.size(); i > 0; --i) {
    value = value << 8 | static_cast<uint8_t>(bytes[i - 1]);
  }
  return value;
}

double BlobReader::Double() { return std::bit_cast<double>(Unsigned()); }

std::optional<double> BlobReader::Optional() {
  const bool has = Unsigned() != 0;
  const double value = Double();
  if (!has) return std::nullopt;
  return value;
}

std::string BlobReader::Text() { return std::string(Take(Unsigned())); }

}  // namespace pennyweight
