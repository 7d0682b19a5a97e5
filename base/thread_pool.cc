// Threads that wait for one function at a time: see thread_pool.h.
#include "base/thread_pool.h"

#include <algorithm>
#include <system_error>

#include "base/check.h"
#include "base/log.h"

namespace h2o {
namespace {

// About 30 us of spinning: longer than the gap between two operations of a
// step, shorter than anyone would notice of an idle rank.
constexpr int kSpins = 2000;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Spins, then sleeps, until `value` differs from `old`.
template <typename T>
void WaitChange(const std::atomic<T>& value, T old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    Pause();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  H2O_CHECK(num_threads >= 1) << num_threads;
  threads_.reserve(num_threads - 1);
  for (int i = 1; i < num_threads; ++i) {
    try {
      threads_.emplace_back([this, i] { WorkerLoop(i); });
    } catch (const std::system_error& error) {
      // The process limit is reached.  Fewer threads are slower, but they work.
      H2O_LOG(LogLevel::kWarning)
          << "the system grants " << i << " of " << num_threads
          << " threads: " << error.what();
      break;
    }
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& t : threads_) t.join();
}

void ThreadPool::WorkerLoop(int thread) {
  uint32_t seen = 0;
  while (true) {
    WaitChange(epoch_, seen);
    ++seen;
    if (stop_.load(std::memory_order_relaxed)) return;
    (*task_)(thread);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      running_.notify_one();
    }
  }
}

void ThreadPool::Run(absl::FunctionRef<void(int)> fn) {
  if (threads_.empty()) {
    fn(0);
    return;
  }
  task_ = &fn;
  running_.store(static_cast<int32_t>(threads_.size()),
                 std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  fn(0);
  for (int32_t left = running_.load(std::memory_order_acquire); left != 0;
       left = running_.load(std::memory_order_acquire)) {
    WaitChange(running_, left);
  }
}

void ThreadPool::ParallelFor(
    int64_t total, int64_t grain,
    absl::FunctionRef<void(int64_t, int64_t, int)> fn) {
  if (threads_.empty() || total <= grain) {
    if (total > 0) fn(0, total, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  Run([&](int thread) {
    while (true) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= total) return;
      fn(begin, std::min(begin + grain, total), thread);
    }
  });
}

}  // namespace h2o
