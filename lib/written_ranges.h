// What was written into a file: the place and the XXH3-128 of every write. Before a file is renamed
// into place its sink reads it back and compares, so that what is claimed of the bytes in memory is
// true of the bytes on the disk.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

#include "lib/file.h"
#include "lib/hash.h"
#include "lib/result.h"

namespace pennyweight {

// Bytes [offset, offset + bytes) of a file, and the hash of what was written there. With several
// lines: as many bytes again every `stride` bytes, hashed behind each other. A layout that packs
// down the columns of a matrix writes a piece of each of its lines at a time.
struct WrittenRange {
  uint64_t offset = 0;
  uint64_t bytes = 0;  // of a line
  Hash128 hash{};
  uint64_t lines = 1;
  uint64_t stride = 0;  // from one line's beginning to the next one's; at least `bytes`

  uint64_t end() const { return offset + (lines - 1) * stride + bytes; }
};

// Reads exactly `bytes` bytes at `offset` of the file that is checked.
using RangeReader = std::function<Status(uint64_t offset, void* to, uint64_t bytes)>;

// Offsets are bytes from the start of one file. About 56 bytes are kept per write.
class WrittenRanges {
 public:
  // Remembers one finished write, hashed outside the lock. Thread-safe.
  WrittenRange Record(uint64_t offset, const void* data, uint64_t bytes);
  // The same of `lines` lines of `bytes` bytes, which lie behind each other in `data`.
  // Precondition: lines > 0.
  WrittenRange RecordLines(uint64_t offset, uint64_t stride, uint64_t lines, const void* data,
                           uint64_t bytes);
  // Remembers a write of an earlier run. The same range recorded by this run takes its place.
  void Restore(const WrittenRange& range);

  // Whether every byte of [begin, end) was written exactly once by writes that lie inside it.
  // Errors: kVerifyFailed with the first offset that is missing or written twice.
  Status Covered(uint64_t begin, uint64_t end) const;

  // Reads every range back and compares hashes, on all threads that ThreadLimit leaves; `read` must
  // be thread-safe. Errors: kVerifyFailed with the offset of a range that differs, and those of
  // `read`; of the first piece of the file that fails.
  Status Verify(const RangeReader& read) const;
  // The same on a file opened anew; the error names it.
  Status VerifyFile(const ReadFile& file) const;

 private:
  struct Range : WrittenRange {
    bool restored = false;
  };
  void Add(const Range& range);
  // Ranges in order of their offsets.
  static Status VerifyPiece(std::span<const Range> ranges, const RangeReader& read);
  static Status VerifyLines(const Range& range, const RangeReader& read);
  // Sorts what came since the last call, and drops what was restored and then written again.
  // Precondition: mutex_ is held.
  const std::vector<Range>& Sorted() const;

  mutable std::mutex mutex_;
  mutable std::vector<Range> ranges_;
  mutable bool sorted_ = true;
};

}  // namespace pennyweight
