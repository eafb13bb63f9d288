#include "lib/hash.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace pennyweight {
namespace {

TEST_CASE("hashes are XXH3-128, high word first") {
  // `xxhsum -H2` of the empty input, of "a", and of 1000 bytes i * 7 mod 256.
  CHECK(HashBytes("", 0) == Hash128{0x99aa06d3014798d8ull, 0x6001c324468d497full});
  CHECK(HashBytes("a", 1) == Hash128{0xa96faf705af16834ull, 0xe6c632b61e964e1full});
  std::vector<uint8_t> bytes(1000);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 7);
  CHECK(HashBytes(bytes.data(), bytes.size()) ==
        Hash128{0xabee229cdadad76dull, 0x10ad30264426c830ull});
}

TEST_CASE("pieces in order hash like the whole") {
  std::mt19937 random(7);
  std::vector<uint8_t> bytes(100001);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  const Hash128 whole = HashBytes(bytes.data(), bytes.size());
  for (const size_t piece : {size_t{1}, size_t{63}, size_t{4096}, bytes.size()}) {
    Hasher hasher;
    for (size_t at = 0; at < bytes.size(); at += piece) {
      hasher.Update(bytes.data() + at, std::min(piece, bytes.size() - at));
    }
    hasher.Update(nullptr, 0);
    CHECK(hasher.Digest() == whole);
    CHECK(hasher.Digest() == whole);  // asking does not end it
  }
  // Order and every bit matter.
  bytes[50000] ^= 1;
  CHECK(HashBytes(bytes.data(), bytes.size()) != whole);
  bytes[50000] ^= 1;
  std::swap(bytes[0], bytes[1]);
  CHECK(HashBytes(bytes.data(), bytes.size()) != whole);
}

TEST_CASE("a hasher moves with what it has seen") {
  Hasher first;
  first.Update("penny", 5);
  Hasher second(std::move(first));
  second.Update("weight", 6);
  CHECK(second.Digest() == HashBytes("pennyweight", 11));
  CHECK(Hasher().Digest() == HashBytes(nullptr, 0));
}

}  // namespace
}  // namespace pennyweight
