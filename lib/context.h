// What a long operation is given instead of globals: threads, memory, progress, cancellation.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

namespace pennyweight {

// Told what a run is doing; implemented by cmd/. Called from one thread at a time.
class Progress {
 public:
  virtual ~Progress() = default;
  // A phase of `total` units begins ("layer 3 of 32", "writing").
  virtual void Phase(std::string_view name, int64_t total) = 0;
  virtual void Advance(int64_t done) = 0;
};

struct Context {
  int threads = 1;                            // at least 1
  uint64_t memory_limit = 1ull << 40;         // bytes of resident memory a run may use
  Progress* progress = nullptr;               // may be null
  const std::atomic<bool>* cancel = nullptr;  // may be null; true: stop soon with kInterrupted

  bool Cancelled() const { return cancel != nullptr && cancel->load(std::memory_order_relaxed); }
};

}  // namespace pennyweight
