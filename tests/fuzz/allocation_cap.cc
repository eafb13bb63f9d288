#include "tests/fuzz/allocation_cap.h"

#include <sanitizer/allocator_interface.h>

#include <atomic>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>

namespace pennyweight::fuzz {
namespace {

// Bytes that are live; what was there before the cap may be freed under it, so it may be negative.
std::atomic<int64_t> live{0};
std::atomic<int64_t> most{0};
std::atomic<int64_t> allowed{0};  // 0: no cap in force

// Neither hook may allocate, and the print of a failure must not come back here.
void OnMalloc(const volatile void*, size_t bytes) {
  const int64_t limit = allowed.load(std::memory_order_relaxed);
  if (limit == 0) return;
  const int64_t now = live.fetch_add(static_cast<int64_t>(bytes)) + static_cast<int64_t>(bytes);
  if (now > most.load(std::memory_order_relaxed)) most.store(now, std::memory_order_relaxed);
  if (now <= limit) return;
  allowed.store(0);
  std::fprintf(stderr, "allocation cap: %" PRId64 " bytes are held, %" PRId64 " are allowed\n", now,
               limit);
  std::abort();
}

void OnFree(const volatile void* pointer) {
  if (pointer == nullptr || allowed.load(std::memory_order_relaxed) == 0) return;
  live.fetch_sub(
      static_cast<int64_t>(__sanitizer_get_allocated_size(const_cast<const void*>(pointer))));
}

}  // namespace

AllocationCap::AllocationCap(uint64_t file_bytes) {
  static const int installed = __sanitizer_install_malloc_and_free_hooks(OnMalloc, OnFree);
  if (installed == 0) std::abort();
  live.store(0);
  most.store(0);
  allowed.store(static_cast<int64_t>(AllowedBytes(file_bytes)));
}

AllocationCap::~AllocationCap() { allowed.store(0); }

uint64_t AllocationCap::peak() const {
  const int64_t peak_bytes = most.load();
  return peak_bytes < 0 ? 0 : static_cast<uint64_t>(peak_bytes);
}

}  // namespace pennyweight::fuzz
