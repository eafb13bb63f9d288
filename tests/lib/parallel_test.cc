#include "lib/parallel.h"

#include <doctest/doctest.h>
#include <tbb/global_control.h>
#include <tbb/task_arena.h>

#include <atomic>
#include <chrono>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace pennyweight {
namespace {

Context WithThreads(int threads) {
  Context context;
  context.threads = threads;
  return context;
}

TEST_CASE("ParallelFor visits every index once") {
  for (const int threads : {1, 2, 3, 16}) {
    for (const int64_t count : {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{7}, int64_t{100003}}) {
      CAPTURE(threads);
      CAPTURE(count);
      std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
      ParallelFor(WithThreads(threads), count,
                  [&](int64_t i) { ++visits[static_cast<size_t>(i)]; });
      int64_t wrong = 0;
      for (const auto& visit : visits) wrong += visit.load() != 1;
      CHECK(wrong == 0);
    }
  }
  int calls = 0;
  ParallelFor(WithThreads(4), -3, [&](int64_t) { ++calls; });
  CHECK(calls == 0);
}

TEST_CASE("one thread means the calling thread, in order") {
  std::vector<int64_t> order;
  const auto self = std::this_thread::get_id();
  bool elsewhere = false;
  ParallelFor(WithThreads(1), 50, [&](int64_t i) {
    order.push_back(i);
    elsewhere = elsewhere || std::this_thread::get_id() != self;
  });
  CHECK_FALSE(elsewhere);
  for (int64_t i = 0; i < 50; ++i) CHECK(order[static_cast<size_t>(i)] == i);
}

TEST_CASE("no more bodies at once than threads, nested calls included") {
  std::atomic<int> running{0};
  std::atomic<int> most{0};
  const Context context = WithThreads(2);
  ParallelFor(context, 8, [&](int64_t) {
    ParallelFor(context, 8, [&](int64_t) {
      const int now = ++running;
      int seen = most.load();
      while (now > seen && !most.compare_exchange_weak(seen, now)) {
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      --running;
    });
  });
  CHECK(most.load() >= 1);
  CHECK(most.load() <= 2);
}

TEST_CASE("a waiting thread does not begin another body of the outer loop") {
  // What a body keeps per thread must be its own until it returns. It takes more than two threads
  // to go wrong, also where there are fewer cores, so the arena is made here.
  const tbb::global_control control(tbb::global_control::max_allowed_parallelism, 6);
  tbb::task_arena arena(6);
  std::atomic<int> reentered{0};
  std::atomic<int> wrong_sums{0};
  const Context context = WithThreads(6);
  arena.execute([&] {
    ParallelFor(context, 60, [&](int64_t outer) {
      static thread_local int depth = 0;
      if (++depth > 1) ++reentered;
      std::atomic<int64_t> sum{0};
      ParallelFor(context, 5, [&](int64_t i) {
        std::this_thread::sleep_for(std::chrono::microseconds(outer % 3 == 0 ? 900 : 100));
        sum += i;
      });
      if (sum.load() != 10) ++wrong_sums;
      --depth;
    });
  });
  CHECK(reentered.load() == 0);
  CHECK(wrong_sums.load() == 0);
}

TEST_CASE("a loop inside a wider arena keeps to its own number of threads") {
  const tbb::global_control control(tbb::global_control::max_allowed_parallelism, 6);
  tbb::task_arena arena(6);
  std::atomic<int> running{0};
  std::atomic<int> most{0};
  arena.execute([&] {
    ParallelFor(WithThreads(2), 60, [&](int64_t) {
      const int now = ++running;
      int seen = most.load();
      while (now > seen && !most.compare_exchange_weak(seen, now)) {
      }
      std::this_thread::sleep_for(std::chrono::microseconds(300));
      --running;
    });
  });
  CHECK(most.load() >= 1);
  CHECK(most.load() <= 2);
}

TEST_CASE("ParallelTry returns the error of the lowest failing index") {
  for (const int threads : {1, 2, 8}) {
    for (int round = 0; round < 50; ++round) {
      const Status status = ParallelTry(WithThreads(threads), 200, [](int64_t i) -> Status {
        if (i == 31 || i == 33 || i > 60) {
          // The lowest is the slowest: the first to fail in time is another one.
          if (i == 31) std::this_thread::sleep_for(std::chrono::microseconds(200));
          return Error(ErrorCode::kIo, "index " + std::to_string(i));
        }
        return OkStatus();
      });
      REQUIRE_FALSE(status.ok());
      CHECK(status.error().message == "index 31");
    }
  }
}

TEST_CASE("ParallelTry visits everything when nothing fails, and stops early when something does") {
  std::atomic<int64_t> sum{0};
  CHECK(ParallelTry(WithThreads(3), 1000, [&](int64_t i) {
          sum += i;
          return OkStatus();
        }).ok());
  CHECK(sum.load() == 499500);
  CHECK(ParallelTry(WithThreads(3), 0, [](int64_t) -> Status {
          return Error(ErrorCode::kIo, "never called");
        }).ok());

  std::atomic<int64_t> calls{0};
  const Status status = ParallelTry(WithThreads(2), 1 << 20, [&](int64_t) -> Status {
    ++calls;
    return Error(ErrorCode::kIo, "at once");
  });
  CHECK_FALSE(status.ok());
  CHECK(calls.load() <= 2);
}

TEST_CASE("ParallelTry stops when it is cancelled") {
  std::atomic<bool> cancel{false};
  for (const int threads : {1, 2}) {
    cancel = false;
    Context context = WithThreads(threads);
    context.cancel = &cancel;
    std::atomic<int64_t> calls{0};
    const Status status = ParallelTry(context, 1 << 20, [&](int64_t) {
      if (++calls == 10) cancel = true;
      return OkStatus();
    });
    REQUIRE_FALSE(status.ok());
    CHECK(status.error().code == ErrorCode::kInterrupted);
    CHECK(calls.load() < 100);
  }
  // A failure says more than the cancellation that followed it.
  cancel = false;
  Context context = WithThreads(2);
  context.cancel = &cancel;
  const Status status = ParallelTry(context, 100, [&](int64_t) -> Status {
    cancel = true;
    return Error(ErrorCode::kNoSpace, "full");
  });
  REQUIRE_FALSE(status.ok());
  CHECK(status.error().code == ErrorCode::kNoSpace);
}

TEST_CASE("ThreadLimit holds while it lives") {
  const ThreadLimit limit(1);
  std::set<std::thread::id> seen;
  std::atomic<int> running{0};
  int most = 0;
  ParallelFor(WithThreads(4), 32, [&](int64_t) {
    // One thread at a time: the set needs no lock.
    most = std::max(most, ++running);
    seen.insert(std::this_thread::get_id());
    --running;
  });
  CHECK(most == 1);
  CHECK(seen.size() == 1);
}

}  // namespace
}  // namespace pennyweight
