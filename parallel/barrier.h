// A Barrier is where the ranks of one host meet: no rank leaves before all have
// arrived.  What was written before a meeting can be read after it.
//
// Waiting spins for some tens of microseconds (spin.h), then sleeps.
//
// Threads  Meet: the rank's own thread.  Break: any.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "parallel/futex.h"

namespace h2o {

inline constexpr int kMaxRanks = 128;

// The state of a barrier, in memory that all ranks see.  Starts as zeros.
struct BarrierState {
  struct alignas(64) Arrival {
    std::atomic<uint32_t> meeting;
    std::atomic<uint64_t> tags[2];  // of the odd and of the even meetings
  };
  alignas(64) std::atomic<uint32_t> word;  // bit 0: broken; above: meetings
  alignas(64) std::atomic<uint32_t> arrived;
  std::atomic<uint32_t> sleepers;
  Arrival arrivals[kMaxRanks];
};

class Barrier {
 public:
  enum class Result {
    kMet,
    kBroken,    // Break was called
    kTimedOut,  // Missing() gives the ranks that did not arrive
    kGaveUp,    // `keep_waiting` said no
  };
  struct Options {
    FutexScope scope = FutexScope::kThreads;
    double timeout_seconds = 60;
    // Called every few milliseconds while this rank sleeps; may be empty.
    std::function<bool()> keep_waiting;
  };

  // `state` outlives the barrier.
  Barrier(BarrierState* state, int rank, int size, Options options);

  // `tag` identifies the operation; Dissenter() compares tags.
  Result Meet(uint64_t tag);

  // Ends the running meeting and every later one, for all ranks.
  void Break();
  bool broken() const {
    return state_->word.load(std::memory_order_seq_cst) & kBrokenBit;
  }

  // The ranks that did not arrive at this rank's last meeting.
  std::vector<int> Missing() const;

  // A rank that arrived at the last meeting with another tag, or -1.
  // REQUIRES: that meeting was complete and this rank has begun no other.
  int Dissenter() const;

 private:
  static constexpr uint32_t kBrokenBit = 1;

  Result Await(uint32_t before);

  BarrierState* const state_;
  const int rank_;
  const int size_;
  const Options options_;
  const double spin_seconds_;
  uint32_t meeting_ = 0;
};

}  // namespace h2o
