// Which parts of a large file are done with, so that they leave the page cache: a 140 GB model read
// on a 16 GB machine must push out neither the system's other files nor itself.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace pennyweight {

// Counts what was read or written in windows of a file, in any order and from any thread.
class FileWindows {
 public:
  // A multiple of the page cache's largest folios: smaller pieces are not dropped.
  static constexpr uint64_t kBytes = 16u << 20;

  // An output from this size on goes to the disk, window by window, while it is made.
  static constexpr uint64_t kWriteBehind = 64u << 20;

  explicit FileWindows(uint64_t file_bytes);
  // Whether a file is so large a part of this machine's memory that it should not stay in it.
  static bool Wanted(uint64_t file_bytes);

  // [offset, offset + bytes) was transferred; calls full(window_offset, window_bytes) for each
  // window of which as many bytes were by now as it has. A window counts anew after that.
  template <class Full>
  void Add(uint64_t offset, uint64_t bytes, const Full& full) {
    const uint64_t end = offset + bytes;
    while (offset < end) {
      const uint64_t window = offset / kBytes;
      const uint64_t window_end = (window + 1) * kBytes;
      const uint64_t part = (end < window_end ? end : window_end) - offset;
      const uint64_t size = SizeOf(window);
      // Windows are far below 4 GiB.
      const auto count = static_cast<uint32_t>(part);
      if (counts_[window].fetch_add(count, std::memory_order_relaxed) + count >= size) {
        counts_[window].store(0, std::memory_order_relaxed);
        full(window * kBytes, size);
      }
      offset += part;
    }
  }

 private:
  uint64_t SizeOf(uint64_t window) const {
    const uint64_t begin = window * kBytes;
    return file_bytes_ - begin < kBytes ? file_bytes_ - begin : kBytes;
  }

  uint64_t file_bytes_;
  std::unique_ptr<std::atomic<uint32_t>[]> counts_;
};

// What of a file the disk is asked for before it is read: behind a large read, what follows it, so
// that it is there when its turn comes. Any number of threads may read parts of one stream.
class ReadAhead {
 public:
  // Reads from this size on are those of a stream. It is asked for in pieces of at least kStep, up
  // to kAhead beyond the read.
  static constexpr uint64_t kStreamBytes = 128u << 10;
  static constexpr uint64_t kStep = 8u << 20;
  static constexpr uint64_t kAhead = 32u << 20;

  explicit ReadAhead(uint64_t file_bytes) : file_bytes_(file_bytes) {}

  // [offset, offset + bytes) is about to be read; calls ask(offset, bytes) at most once.
  template <class Ask>
  void Add(uint64_t offset, uint64_t bytes, const Ask& ask) {
    if (bytes < kStreamBytes) return;
    const uint64_t end = offset + bytes;
    uint64_t asked = asked_.load(std::memory_order_relaxed);
    // Outside of what was asked for: a stream begins here, with this read.
    const bool inside = end <= asked && asked - end <= 2 * kAhead;
    const uint64_t from = inside ? asked : offset;
    const uint64_t to = file_bytes_ - end < kAhead ? file_bytes_ : end + kAhead;
    if (from >= to || (inside && to < file_bytes_ && to - from < kStep)) return;
    // One of the threads asks.
    if (asked_.compare_exchange_strong(asked, to, std::memory_order_relaxed)) ask(from, to - from);
  }

 private:
  uint64_t file_bytes_;
  std::atomic<uint64_t> asked_{0};
};

}  // namespace pennyweight
