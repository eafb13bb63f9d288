// Aborts a fuzzer when reading one input holds more memory than the input's size allows: what a
// file announces may not fill the machine. Counts every allocation of the process.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pennyweight::fuzz {

// What reading a file of this size may hold at once.
constexpr uint64_t AllowedBytes(uint64_t file_bytes) { return (64ull << 20) + 4 * file_bytes; }

// In force as long as it lives; one at a time.
class AllocationCap {
 public:
  explicit AllocationCap(uint64_t file_bytes);
  ~AllocationCap();
  AllocationCap(const AllocationCap&) = delete;
  AllocationCap& operator=(const AllocationCap&) = delete;

  // The most that was held at once since the construction, in bytes.
  uint64_t peak() const;
};

}  // namespace pennyweight::fuzz
