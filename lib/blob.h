// Small results as bytes, for the journal: numbers little-endian, texts with their length in front.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace pennyweight {

class BlobWriter {
 public:
  void Unsigned(uint64_t value);
  void Double(double value);
  void Optional(const std::optional<double>& value);
  void Text(std::string_view value);
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// Reads what BlobWriter wrote; after a read beyond the end everything is zero and ok() is false.
class BlobReader {
 public:
  explicit BlobReader(std::string_view bytes) : rest_(bytes) {}
  uint64_t Unsigned();
  double Double();
  std::optional<double> Optional();
  std::string Text();
  bool ok() const { return ok_; }
  bool done() const { return ok_ && rest_.empty(); }

 private:
  std::string_view Take(size_t bytes);
  std::string_view rest_;
  bool ok_ = true;
};

}  // namespace pennyweight
