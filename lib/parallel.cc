#include "lib/parallel.h"

#include <tbb/blocked_range.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>
#include <optional>

namespace pennyweight {
namespace {

// Runs `work` where at most `threads` threads take part. A nested call finds itself in an arena
// that is already narrow enough and shares it.
template <class Work>
void InArena(int threads, const Work& work) {
  if (tbb::this_task_arena::max_concurrency() <= threads) {
    // Isolated: a thread that waits for this loop takes no unrelated outer task onto its stack,
    // where that task would meet locks and scratch buffers already in use.
    tbb::this_task_arena::isolate(work);
  } else {
    tbb::task_arena arena(threads);
    arena.execute([&] { tbb::this_task_arena::isolate(work); });
  }
}

}  // namespace

void ParallelFor(const Context& context, int64_t count, const std::function<void(int64_t)>& body) {
  const int threads = std::max(1, context.threads);
  if (threads == 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  // Bodies are coarse; only very long loops are handed out in pieces larger than one.
  const int64_t grain = std::max<int64_t>(1, count / (int64_t{threads} * 64));
  InArena(threads, [&] {
    tbb::parallel_for(
        tbb::blocked_range<int64_t>(0, count, static_cast<size_t>(grain)),
        [&](const tbb::blocked_range<int64_t>& range) {
          for (int64_t i = range.begin(); i != range.end(); ++i) body(i);
        },
        tbb::simple_partitioner());
  });
}

Status ParallelTry(const Context& context, int64_t count,
                   const std::function<Status(int64_t)>& body) {
  // Indexes are handed out in increasing order, so when one fails, every lower one has been handed
  // out too and will finish: the lowest failing index does not depend on the threads.
  std::atomic<int64_t> next{0};
  std::atomic<bool> stop{false};
  std::atomic<bool> cancelled{false};
  std::mutex mutex;
  int64_t failed_index = std::numeric_limits<int64_t>::max();
  std::optional<Error> failure;

  const auto worker = [&](int64_t) {
    while (!stop.load(std::memory_order_relaxed)) {
      const int64_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= count) return;
      if (context.Cancelled()) {
        cancelled.store(true, std::memory_order_relaxed);
        stop.store(true, std::memory_order_relaxed);
        return;
      }
      Status status = body(i);
      if (status.ok()) continue;
      stop.store(true, std::memory_order_relaxed);
      const std::lock_guard<std::mutex> lock(mutex);
      if (i < failed_index) {
        failed_index = i;
        failure = std::move(status).TakeError();
      }
    }
  };
  ParallelFor(context, std::min<int64_t>(std::max(1, context.threads), count), worker);

  if (failure) return std::move(*failure);
  if (cancelled.load()) return Error(ErrorCode::kInterrupted, "stopped before it was done");
  return OkStatus();
}

ThreadLimit::ThreadLimit(int threads)
    : control_(new tbb::global_control(tbb::global_control::max_allowed_parallelism,
                                       static_cast<size_t>(std::max(1, threads)))) {}

int ThreadLimit::Active() {
  return static_cast<int>(
      tbb::global_control::active_value(tbb::global_control::max_allowed_parallelism));
}

ThreadLimit::~ThreadLimit() { delete static_cast<tbb::global_control*>(control_); }

}  // namespace pennyweight
