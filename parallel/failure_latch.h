// Keeps the first failure of a communicator.  All later operations fail with
// it.
//
// Threads  any.
#pragma once

#include <atomic>
#include <mutex>
#include <utility>

#include "absl/status/status.h"
#include "base/check.h"

namespace h2o {

class FailureLatch {
 public:
  bool failed() const { return failed_.load(std::memory_order_acquire); }

  // An earlier failure stays.
  void Set(absl::Status failure) {
    H2O_CHECK(!failure.ok()) << "a failure needs a reason";
    std::lock_guard lock(mutex_);
    if (first_.ok()) first_ = std::move(failure);
    failed_.store(true, std::memory_order_release);
  }

  // OK while nothing has failed.
  absl::Status Get() const {
    if (!failed()) return absl::OkStatus();
    std::lock_guard lock(mutex_);
    return first_;
  }

 private:
  std::atomic<bool> failed_{false};
  mutable std::mutex
      mutex_;           // unlike absl::Mutex, visible to thread sanitizers
  absl::Status first_;  // guarded by mutex_
};

}  // namespace h2o
