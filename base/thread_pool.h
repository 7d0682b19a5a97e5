// A ThreadPool runs one function on a fixed set of threads and waits for all of
// them.  The caller is thread 0.  The other threads spin briefly for the next
// call, since calls come every few microseconds within a step, then sleep.
//
// Threads  one owner makes all the calls.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace h2o {

class ThreadPool {
 public:
  // Starts num_threads - 1 threads, or as many as the system grants.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls fn(thread) for thread = 0 .. num_threads() - 1 at the same time.
  void Run(absl::FunctionRef<void(int thread)> fn);

  // Cuts [0, total) into items of `grain` and calls fn(begin, end, thread) once
  // for each item.  A thread takes the next item when it has finished one. With
  // one thread or one item, fn gets all of [0, total) in one call.
  void ParallelFor(int64_t total, int64_t grain,
                   absl::FunctionRef<void(int64_t, int64_t, int)> fn);

 private:
  void WorkerLoop(int thread);

  std::vector<std::thread> threads_;
  // The task of the current epoch; written before `epoch_` is raised.
  const absl::FunctionRef<void(int)>* task_ = nullptr;
  std::atomic<uint32_t> epoch_{0};
  std::atomic<int32_t> running_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace h2o
