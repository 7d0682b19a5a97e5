// Code that waits or measures time takes a Clock as an argument.  A test passes
// a clock that it moves itself.
#pragma once

#include <chrono>

namespace h2o {

// Seconds since an arbitrary, fixed moment; never goes back.  Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual double Now() const = 0;
};

class SteadyClock final : public Clock {
 public:
  double Now() const override {
    return std::chrono::duration<double>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
};

}  // namespace h2o
