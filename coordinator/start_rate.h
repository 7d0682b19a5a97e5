// How fast requests leave the queue: the base of every estimate of a wait.
//
// Only the time in which requests wait is measured: then the rate is what the
// server can do, and not what it is asked for.
//
// Threads  not thread-safe; the Engine's lock.
#pragma once

#include <cstdint>
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
  static constexpr double kMemorySeconds = 30;  // of waiting time
  static constexpr int kLeastStarts = 8;        // before they are believed

  double now_ = 0;
  double waiting_seconds_ = 0;  // in all
  double tokens_ = 0;           // started; the older, the less they count
  int starts_ = 0;
};

}  // namespace h2o
