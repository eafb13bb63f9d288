// XXH3-128 of bytes that arrive in order: the fingerprint of a tensor between sink and read-back.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

namespace pennyweight {

using Hash128 = std::array<uint64_t, 2>;

Hash128 HashBytes(const void* data, uint64_t bytes);

class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  void Update(const void* data, uint64_t bytes);
  Hash128 Digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pennyweight
