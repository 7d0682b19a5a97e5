// A clock that the sender of requests can wait for.  Tests pass one whose time
// jumps to where the sender waits for.
#pragma once

#include <chrono>
#include <thread>

#include "base/clock.h"

namespace h2o {

class Pace : public Clock {
 public:
  virtual void SleepUntil(double time) = 0;
};

class SteadyPace final : public Pace {
 public:
  double Now() const override { return clock_.Now(); }
  void SleepUntil(double time) override {
    std::this_thread::sleep_for(std::chrono::duration<double>(time - Now()));
  }

 private:
  const SteadyClock clock_;
};

}  // namespace h2o
