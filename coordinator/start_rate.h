// How fast requests leave the queue: the base of every estimate of a wait.
//
// Only the time in which requests wait is measured: then the rate is what the
// server can do, and not what it is asked for.  The rate is that of the newest
// starts: of the last ten seconds, but of kFew at least, because requests may
// end many at a time or minutes apart.
//
// Threads  not thread-safe; the Engine's lock.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

namespace h2o {

class StartRate {
 public:
  // It is `now`; `waiting`: whether requests have waited since the last call.
  void Pass(double now, bool waiting);
  // A request of at most `tokens` that has waited starts.
  void Started(int64_t tokens);

  // Tokens of requests that start in a second; none until some have started.
  std::optional<double> TokensPerSecond() const;

 private:
  static constexpr double kMemorySeconds = 10;  // of waiting time
  static constexpr size_t kFew = 64;
  static constexpr size_t kLeast = 8;  // before they are believed

  struct Start {
    double at = 0;  // in waiting time
    int64_t tokens = 0;
  };

  double now_ = 0;
  double waiting_seconds_ = 0;  // in all
  double since_ = 0;            // waiting time when the oldest began to count
  std::deque<Start> starts_;
  int64_t tokens_ = 0;  // of these
};

}  // namespace h2o
