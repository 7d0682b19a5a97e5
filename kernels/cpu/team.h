// The threads of a CPU backend and the memory that its operations work in.
//
// One operation runs at a time.  It may use all the memory, whose contents are
// undefined when it starts.
//
// Threads  one owner, the step thread of the rank, as of a Backend.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/functional/function_ref.h"
#include "base/thread_pool.h"
#include "kernels/backend.h"

namespace h2o::cpu {

inline constexpr int64_t kVectorFloats = 16;  // of the widest vector

class Team {
 public:
  // How much memory of each kind an operation needs.
  struct Scratch {
    int64_t thread_floats = 0;  // of each thread
    int64_t shared_bytes = 0;   // of all threads together

    int64_t Bytes(int num_threads) const {
      return num_threads * AlignedStride(thread_floats) * 4 + shared_bytes;
    }
  };

  // `memory` holds scratch.Bytes(num_threads).
  Team(int num_threads, const Scratch& scratch, Buffer memory)
      : thread_floats_(AlignedStride(scratch.thread_floats)),
        memory_(std::move(memory)),
        shared_(memory_.data() + num_threads * thread_floats_ * 4),
        pool_(num_threads) {}

  int num_threads() const { return pool_.num_threads(); }
  int64_t bytes() const { return memory_.bytes(); }

  // Memory of `thread` alone, aligned to kRowAlignment floats.
  float* OfThread(int thread) const {
    return memory_.As<float>() + thread * thread_floats_;
  }
  // Memory of all threads, aligned likewise.
  template <class T>
  T* Shared() const {
    return reinterpret_cast<T*>(shared_);
  }

  // ThreadPool::ParallelFor.
  void ParallelFor(int64_t total, int64_t grain,
                   absl::FunctionRef<void(int64_t, int64_t, int)> fn) {
    pool_.ParallelFor(total, grain, fn);
  }

 private:
  const int64_t thread_floats_;
  const Buffer memory_;
  std::byte* const shared_;
  ThreadPool pool_;
};

}  // namespace h2o::cpu
