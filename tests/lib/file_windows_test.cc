#include "lib/file_windows.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

namespace pennyweight {
namespace {

using Windows = std::vector<std::pair<uint64_t, uint64_t>>;

TEST_CASE("a window is done with when each of its bytes was read, in whatever order") {
  constexpr uint64_t kTail = 12345;
  constexpr uint64_t kFile = 3 * FileWindows::kBytes + kTail;
  std::vector<std::pair<uint64_t, uint64_t>> reads;
  std::mt19937_64 rng(7);
  for (uint64_t at = 0; at < kFile;) {
    const uint64_t bytes = std::min<uint64_t>(kFile - at, rng() % (5u << 20) + 1);
    reads.emplace_back(at, bytes);
    at += bytes;
  }
  const Windows all = {{0, FileWindows::kBytes},
                       {FileWindows::kBytes, FileWindows::kBytes},
                       {2 * FileWindows::kBytes, FileWindows::kBytes},
                       {3 * FileWindows::kBytes, kTail}};
  FileWindows windows(kFile);
  // Twice: a second pass over the file counts anew.
  for (int pass = 0; pass < 2; ++pass) {
    std::shuffle(reads.begin(), reads.end(), rng);
    Windows full;
    for (size_t i = 0; i < reads.size(); ++i) {
      CHECK(full.size() < all.size());
      windows.Add(reads[i].first, reads[i].second,
                  [&](uint64_t begin, uint64_t bytes) { full.emplace_back(begin, bytes); });
    }
    std::sort(full.begin(), full.end());
    CHECK(full == all);
  }
  // A window that lacks one byte stays.
  bool dropped = false;
  windows.Add(0, FileWindows::kBytes - 1, [&](uint64_t, uint64_t) { dropped = true; });
  CHECK_FALSE(dropped);
  windows.Add(FileWindows::kBytes - 1, 1, [&](uint64_t, uint64_t) { dropped = true; });
  CHECK(dropped);
}

TEST_CASE("only files that are large beside this machine's memory are dropped") {
  CHECK_FALSE(FileWindows::Wanted(1 << 20));
  CHECK(FileWindows::Wanted(1ull << 50));
}

TEST_CASE("what follows large reads is asked for once, in order, and not beyond the end") {
  constexpr uint64_t kFile = 5 * ReadAhead::kAhead + 12345;
  std::mt19937_64 rng(11);
  ReadAhead ahead(kFile);
  Windows asked;
  const auto read = [&](uint64_t offset, uint64_t bytes) {
    ahead.Add(offset, bytes,
              [&](uint64_t begin, uint64_t size) { asked.emplace_back(begin, size); });
  };
  read(0, 100);
  read(7 << 20, ReadAhead::kStreamBytes - 1);
  CHECK(asked.empty());  // what reads a header streams nothing
  const uint64_t first = 12345;
  for (uint64_t at = first; at < kFile;) {
    const uint64_t bytes = std::min(kFile - at, ReadAhead::kStreamBytes + rng() % (1u << 20));
    read(at, bytes);
    // Whatever comes within the next step has been asked for.
    REQUIRE(!asked.empty());
    const uint64_t until = asked.back().first + asked.back().second;
    CHECK(until >= std::min(kFile, at + bytes + ReadAhead::kAhead - ReadAhead::kStep));
    CHECK(until <= std::min(kFile, at + bytes + ReadAhead::kAhead));
    at += bytes;
  }
  uint64_t at = first;
  for (const auto& [begin, bytes] : asked) {
    CHECK(begin == at);
    at = begin + bytes;
  }
  CHECK(at == kFile);
  CHECK(asked.size() <= kFile / ReadAhead::kStep + 1);
  // Elsewhere in the file another stream begins.
  asked.clear();
  read(1 << 20, 1 << 20);
  REQUIRE(asked.size() == 1);
  CHECK(asked[0] == std::pair<uint64_t, uint64_t>(1 << 20, (1 << 20) + ReadAhead::kAhead));
}

}  // namespace
}  // namespace pennyweight
