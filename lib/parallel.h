// Parallel loops over a fixed partition. The partition is the caller's and never depends on the
// number of threads, so results do not either.
#pragma once

#include <cstdint>
#include <functional>

#include "lib/context.h"
#include "lib/result.h"

namespace pennyweight {

// Calls body(i) for every i in [0, count), on up to context.threads threads, in any order.
// Nested calls are allowed and share the same threads.
void ParallelFor(const Context& context, int64_t count, const std::function<void(int64_t)>& body);

// The same with a Status; the error of the lowest failing index is returned, so that messages are
// reproducible. Stops handing out new work after a failure or when the context is cancelled.
Status ParallelTry(const Context& context, int64_t count,
                   const std::function<Status(int64_t)>& body);

// Limits the process to `threads` worker threads while it lives. One at a time, in cmd/.
class ThreadLimit {
 public:
  explicit ThreadLimit(int threads);
  ~ThreadLimit();
  ThreadLimit(const ThreadLimit&) = delete;
  ThreadLimit& operator=(const ThreadLimit&) = delete;
  // The limit that holds now; without one, the processors of this machine.
  static int Active();

 private:
  void* control_;
};

}  // namespace pennyweight
