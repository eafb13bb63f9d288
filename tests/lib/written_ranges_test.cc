#include "lib/written_ranges.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

namespace pennyweight {
namespace {

std::vector<uint8_t> RandomBytes(size_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<uint8_t> bytes(n);
  for (auto& b : bytes) b = static_cast<uint8_t>(rng());
  return bytes;
}

RangeReader ReaderOf(const std::vector<uint8_t>& bytes) {
  return [&bytes](uint64_t offset, void* to, uint64_t n) -> Status {
    if (offset + n > bytes.size()) return Error(ErrorCode::kTruncated, "short");
    std::memcpy(to, bytes.data() + offset, n);
    return OkStatus();
  };
}

TEST_CASE("ranges in any order are read back, and any single bit is noticed") {
  // Larger than the read window, so that ranges are split, shared and straddled.
  auto file = RandomBytes((3u << 20) + 12345, 1);
  WrittenRanges ranges;
  const std::vector<uint64_t> cuts = {0,         7,          8, 4096, 1u << 20, (1u << 20) + 1,
                                      2'900'000, file.size()};
  for (size_t i = cuts.size() - 1; i > 0; --i) {
    ranges.Record(cuts[i - 1], file.data() + cuts[i - 1], cuts[i] - cuts[i - 1]);
  }
  CHECK(ranges.Covered(0, file.size()).ok());
  CHECK(ranges.Covered(8, 1u << 20).ok());
  CHECK(ranges.Verify(ReaderOf(file)).ok());
  for (const size_t at : {size_t{0}, size_t{7}, size_t{5000}, size_t{1} << 20, file.size() - 1}) {
    file[at] ^= 16;
    const Status status = ranges.Verify(ReaderOf(file));
    REQUIRE(!status.ok());
    CHECK(status.error().code == ErrorCode::kVerifyFailed);
    uint64_t begin = 0;
    for (const uint64_t cut : cuts) {
      if (cut <= at) begin = cut;
    }
    CHECK(status.error().offset == static_cast<int64_t>(begin));
    file[at] ^= 16;
  }
  CHECK(ranges.Verify(ReaderOf(file)).ok());
  file.pop_back();
  const Status shorter = ranges.Verify(ReaderOf(file));
  REQUIRE(!shorter.ok());
  CHECK(shorter.error().code == ErrorCode::kTruncated);
}

TEST_CASE("a gap, an overlap and a crossed border are errors") {
  const auto bytes = RandomBytes(100, 2);
  const auto covered = [&](std::vector<std::pair<uint64_t, uint64_t>> writes, uint64_t begin,
                           uint64_t end) {
    WrittenRanges ranges;
    for (const auto& [offset, n] : writes) ranges.Record(offset, bytes.data() + offset, n);
    const Status status = ranges.Covered(begin, end);
    return status.ok() ? int64_t{-1} : status.error().offset;
  };
  CHECK(covered({{10, 5}, {15, 5}}, 10, 20) == -1);
  CHECK(covered({{15, 5}, {10, 5}, {20, 9}}, 10, 20) == -1);
  CHECK(covered({}, 10, 10) == -1);
  CHECK(covered({}, 10, 20) == 10);
  CHECK(covered({{10, 5}, {16, 4}}, 10, 20) == 15);
  CHECK(covered({{10, 5}, {15, 4}}, 10, 20) == 19);
  CHECK(covered({{11, 9}}, 10, 20) == 10);
  CHECK(covered({{10, 10}, {10, 10}}, 10, 20) == 10);
  CHECK(covered({{10, 10}, {15, 5}}, 10, 20) == 15);
  CHECK(covered({{5, 10}, {15, 5}}, 10, 20) == 10);
  CHECK(covered({{10, 5}, {15, 7}}, 10, 20) == 20);
}

// The bytes of a strip of columns [at, at + bytes) of every line of a file.
std::vector<uint8_t> Strip(const std::vector<uint8_t>& file, size_t stride, size_t at,
                           size_t bytes) {
  std::vector<uint8_t> strip;
  for (size_t line = 0; line < file.size() / stride; ++line) {
    const auto from = file.begin() + static_cast<std::ptrdiff_t>(line * stride + at);
    strip.insert(strip.end(), from, from + static_cast<std::ptrdiff_t>(bytes));
  }
  return strip;
}

TEST_CASE("strips of columns cover a file together, and any bit of them is noticed") {
  constexpr size_t kStride = 96, kLines = 211;
  auto file = RandomBytes(kStride * kLines, 6);
  const std::vector<std::pair<size_t, size_t>> strips = {{64, 32}, {0, 16}, {16, 48}};
  const auto record = [&](const std::vector<std::pair<size_t, size_t>>& which,
                          WrittenRanges* ranges) {
    for (const auto& [at, bytes] : which) {
      ranges->RecordLines(at, kStride, kLines, Strip(file, kStride, at, bytes).data(), bytes);
    }
  };
  WrittenRanges ranges;
  record(strips, &ranges);
  CHECK(ranges.Covered(0, file.size()).ok());
  CHECK(ranges.Verify(ReaderOf(file)).ok());
  for (const size_t at : {size_t{0}, size_t{100}, size_t{95}, file.size() - 1}) {
    file[at] ^= 2;
    const Status status = ranges.Verify(ReaderOf(file));
    REQUIRE(!status.ok());
    CHECK(status.error().code == ErrorCode::kVerifyFailed);
    const size_t column = at % kStride;
    CHECK(status.error().offset == (column < 16 ? 0 : column < 64 ? 16 : 64));
    file[at] ^= 2;
  }
  const auto offset = [&](const WrittenRanges& some, uint64_t begin, uint64_t end) {
    const Status status = some.Covered(begin, end);
    return status.ok() ? int64_t{-1} : status.error().offset;
  };
  // Reaching over the border of another tensor, before it and behind it.
  CHECK(offset(ranges, 0, file.size() - 1) == static_cast<int64_t>(file.size() - 1));
  CHECK(offset(ranges, 90, file.size()) == 90);
  // A strip that is missing is missing from the first line on; one that is there twice, too.
  WrittenRanges missing, twice;
  record({{64, 32}, {0, 16}}, &missing);
  CHECK(offset(missing, 0, file.size()) == 16);
  record({{64, 32}, {0, 16}, {16, 48}, {16, 8}}, &twice);
  CHECK(offset(twice, 0, file.size()) == 16);
  // A strip of an earlier run counts once when it is written again.
  WrittenRanges again;
  for (const auto& [at, bytes] : strips) {
    WrittenRanges old;
    again.Restore(
        old.RecordLines(at, kStride, kLines, Strip(file, kStride, at, bytes).data(), bytes));
  }
  CHECK(again.Covered(0, file.size()).ok());
  record({{0, 16}}, &again);
  CHECK(again.Covered(0, file.size()).ok());
  CHECK(again.Verify(ReaderOf(file)).ok());
}

TEST_CASE("the file's name is in the error") {
  const auto bytes = RandomBytes(64, 3);
  const std::string path = "written_ranges_test.bin";
  auto file = AtomicFile::Create(path, bytes.size(), true);
  REQUIRE(file.ok());
  WrittenRanges ranges;
  REQUIRE((*file)->WriteAt(0, bytes.data(), 64).ok());
  ranges.Record(0, bytes.data(), 64);
  {
    auto reopened = ReadFile::Open((*file)->temp_path());
    REQUIRE(reopened.ok());
    CHECK(ranges.VerifyFile(*reopened).ok());
  }
  const uint8_t other = static_cast<uint8_t>(~bytes[20]);
  REQUIRE((*file)->WriteAt(20, &other, 1).ok());
  auto reopened = ReadFile::Open((*file)->temp_path());
  REQUIRE(reopened.ok());
  const Status status = ranges.VerifyFile(*reopened);
  REQUIRE(!status.ok());
  CHECK(status.error().code == ErrorCode::kVerifyFailed);
  CHECK(status.error().file == (*file)->temp_path());
}

TEST_CASE("writes from many threads are all kept") {
  const auto bytes = RandomBytes(4096, 4);
  WrittenRanges ranges;
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = t; i < 512; i += 4) ranges.Record(i * 8, bytes.data() + i * 8, 8);
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(ranges.Covered(0, 4096).ok());
  CHECK(ranges.Verify(ReaderOf(bytes)).ok());
}

TEST_CASE("a restored range counts once when it is written again, and with its new hash") {
  const auto before = RandomBytes(100, 8);
  auto after = RandomBytes(100, 9);
  WrittenRanges old, ranges;
  const WrittenRange first = old.Record(0, before.data(), 50);
  const WrittenRange second = old.Record(50, before.data() + 50, 50);
  ranges.Restore(first);
  ranges.Restore(second);
  CHECK(ranges.Covered(0, 100).ok());
  CHECK(ranges.Verify(ReaderOf(before)).ok());
  ranges.Record(0, after.data(), 50);
  CHECK(ranges.Covered(0, 100).ok());
  CHECK_FALSE(ranges.Verify(ReaderOf(before)).ok());
  std::copy(before.begin() + 50, before.end(), after.begin() + 50);
  CHECK(ranges.Verify(ReaderOf(after)).ok());
  // Twice by this run is a mistake still.
  ranges.Record(0, after.data(), 50);
  CHECK_FALSE(ranges.Covered(0, 100).ok());
}

TEST_CASE("of several damaged pieces the first is named, on any number of threads") {
  auto file = RandomBytes((70u << 20) + 321, 4);
  WrittenRanges ranges;
  constexpr uint64_t kStep = 1'000'003;
  for (uint64_t at = 0; at < file.size(); at += kStep) {
    ranges.Record(at, file.data() + at, std::min(kStep, file.size() - at));
  }
  CHECK(ranges.Verify(ReaderOf(file)).ok());
  for (const size_t at : {size_t{69} << 20, size_t{40} << 20, size_t{18} << 20}) file[at] ^= 1;
  for (int trial = 0; trial < 3; ++trial) {
    const Status status = ranges.Verify(ReaderOf(file));
    REQUIRE(!status.ok());
    CHECK(status.error().code == ErrorCode::kVerifyFailed);
    CHECK(status.error().offset == static_cast<int64_t>((18u << 20) / kStep * kStep));
  }
}

}  // namespace
}  // namespace pennyweight
