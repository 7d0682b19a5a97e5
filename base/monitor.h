// A Monitor is a mutex whose holders may wait for a condition on what it
// guards (Hoare 1974).  Whoever lets go wakes the waiters, so no change can be
// forgotten to be announced.
//
// Built on the standard library's primitives, which thread sanitizers see.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>

namespace h2o {

class Monitor {
 public:
  // Holds the monitor while it lives, but while it waits or is released.
  class Lock {
   public:
    explicit Lock(Monitor& monitor)
        : monitor_(monitor), lock_(monitor.mutex_) {}
    ~Lock() {
      if (lock_.owns_lock()) Release();
    }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

    // Waits until `condition()` holds; others may hold the monitor meanwhile.
    template <typename Condition>
    void Await(Condition&& condition) {
      Announce();
      monitor_.changed_.wait(lock_, std::forward<Condition>(condition));
    }
    // The same, at most `seconds`; returns whether it holds.
    template <typename Condition>
    bool AwaitFor(double seconds, Condition&& condition) {
      Announce();
      return monitor_.changed_.wait_for(lock_,
                                        std::chrono::duration<double>(seconds),
                                        std::forward<Condition>(condition));
    }

    void Release() {
      // Before unlocking: a waiter may then go on to destroy the monitor.
      Announce();
      lock_.unlock();
    }
    void Acquire() { lock_.lock(); }

   private:
    void Announce() { monitor_.changed_.notify_all(); }

    Monitor& monitor_;
    std::unique_lock<std::mutex> lock_;
  };

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
};

}  // namespace h2o
