// Sleeps on a word of memory until another thread or process changes it
// (futex(2)).  std::atomic::wait has no deadline and works within one process.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>

namespace h2o {

enum class FutexScope { kThreads, kProcesses };

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t) &&
              std::atomic<uint32_t>::is_always_lock_free);

// Sleeps while *word == expected, at most `seconds`.  May return early.
inline void FutexWait(std::atomic<uint32_t>* word, uint32_t expected,
                      double seconds, FutexScope scope) {
  timespec timeout;
  timeout.tv_sec = static_cast<time_t>(seconds);
  timeout.tv_nsec =
      static_cast<long>((seconds - static_cast<double>(timeout.tv_sec)) * 1e9);
  const int flag = scope == FutexScope::kThreads ? FUTEX_PRIVATE_FLAG : 0;
  syscall(SYS_futex, word, FUTEX_WAIT | flag, expected, &timeout, nullptr, 0);
}

inline void FutexWakeAll(std::atomic<uint32_t>* word, FutexScope scope) {
  const int flag = scope == FutexScope::kThreads ? FUTEX_PRIVATE_FLAG : 0;
  syscall(SYS_futex, word, FUTEX_WAKE | flag, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace h2o
