// Waits briefly for a peer that is already at work, before going to sleep.
#pragma once

#include <sched.h>

namespace h2o {

// How long a rank may spin for its peers, `local_ranks` of them all being on
// this host.  Ranks that outnumber the cores do not spin: that would only delay
// the one they wait for.
inline double SpinSeconds(int local_ranks) {
  cpu_set_t cpus;
  const int cores =
      sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
  return local_ranks <= cores ? 40e-6 : 0;
}

// One turn of a spinning loop, well under a microsecond.  It yields because
// the scheduler likes to put processes that wake each other on one core, where
// the peer can only go on when this rank does not.
template <typename Done>
void SpinOnce(Done&& done) {
  for (int i = 0; i < 32 && !done(); ++i) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
  if (!done()) sched_yield();
}

}  // namespace h2o
