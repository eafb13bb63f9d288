// SHA-256 (FIPS 180-4) of bytes that arrive in order, by OpenSSL.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "lib/file.h"
#include "lib/result.h"

namespace pennyweight {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void Update(const void* data, uint64_t bytes);
  // 64 lower-case hexadecimal digits, as sha256sum prints. Once only.
  std::string HexDigest();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Of a whole file, a window at a time. Errors: those of ReadFile.
Result<std::string> Sha256OfFile(const ReadFile& file);

}  // namespace pennyweight
