// A Monitor is a mutex whose holders may wait until a condition on what it
// guards becomes true (Hoare, "Monitors: an operating system structuring
// concept", CACM 1974).
//
// The thread that releases the monitor evaluates the conditions that others
// wait for and wakes those whose condition holds.  So every change is
// announced, and no thread wakes in vain.  A condition is therefore evaluated
// by any thread, always with the monitor held.  It should be cheap and must not
// change anything.
//
// Built on the standard library's primitives, which thread sanitizers see.
// clang's -Wthread-safety checks members marked ABSL_GUARDED_BY(monitor).
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"

namespace h2o {

class ABSL_LOCKABLE Monitor {
 public:
  using Condition = absl::FunctionRef<bool()>;

  // Holds the monitor while it lives, except while it waits or is released.
  class ABSL_SCOPED_LOCKABLE Lock {
   public:
    explicit Lock(Monitor& monitor) ABSL_EXCLUSIVE_LOCK_FUNCTION(monitor)
        : monitor_(monitor), lock_(monitor.mutex_) {}
    ~Lock() ABSL_UNLOCK_FUNCTION() {
      // Before unlocking: a waiter may go on to destroy the monitor.
      if (lock_.owns_lock()) monitor_.WakeReady();
    }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

    // Waits until `condition()` holds; others may hold the monitor meanwhile.
    void Await(Condition condition) {
      if (condition()) return;
      Waiting waiting(&monitor_, condition);
      waiting.waiter.changed.wait(lock_, condition);
    }
    // The same, at most `seconds`; returns whether the condition holds.
    bool AwaitFor(double seconds, Condition condition) {
      if (condition()) return true;
      Waiting waiting(&monitor_, condition);
      return waiting.waiter.changed.wait_for(
          lock_, std::chrono::duration<double>(seconds), condition);
    }

    void Release() ABSL_UNLOCK_FUNCTION() {
      monitor_.WakeReady();
      lock_.unlock();
    }
    void Acquire() ABSL_EXCLUSIVE_LOCK_FUNCTION() { lock_.lock(); }

   private:
    Monitor& monitor_;
    std::unique_lock<std::mutex> lock_;
  };

 private:
  struct Waiter {
    Condition condition;
    std::condition_variable changed;
  };

  // Registers a waiter for as long as this object lives.  The waiter is about
  // to release the monitor, so the constructor first wakes the threads whose
  // conditions hold now.
  struct Waiting {
    Waiting(Monitor* monitor, Condition condition)
        : monitor(monitor), waiter{.condition = condition} {
      monitor->WakeReady();
      monitor->waiters_.push_back(&waiter);
    }
    ~Waiting() { std::erase(monitor->waiters_, &waiter); }

    Monitor* const monitor;
    Waiter waiter;
  };

  void WakeReady() {
    for (Waiter* waiter : waiters_) {
      if (waiter->condition()) waiter->changed.notify_one();
    }
  }

  std::mutex mutex_;
  std::vector<Waiter*> waiters_;  // guarded by mutex_
};

}  // namespace h2o
