// Time in which a process did not run, and signals that come together.
#include "base/running_clock.h"

#include <gtest/gtest.h>

#include "base/stop_signals.h"

namespace h2o {
namespace {

class FakeClock final : public Clock {
 public:
  double Now() const override { return now; }
  double now = 1000;
};

TEST(RunningClock, GoesWithTheOther) {
  FakeClock wall;
  const RunningClock clock(&wall);
  const double start = clock.Now();
  for (int i = 0; i < 100; ++i) {
    wall.now += 0.05;
    clock.Now();
  }
  EXPECT_NEAR(clock.Now() - start, 5, 1e-9);
}

TEST(RunningClock, StandsStillInAPause) {
  FakeClock wall;
  const RunningClock clock(&wall);
  const double start = clock.Now();
  wall.now += 3600;
  EXPECT_EQ(clock.Now() - start, RunningClock::kLongestGap);
  wall.now += 0.1;
  EXPECT_NEAR(clock.Now() - start, RunningClock::kLongestGap + 0.1, 1e-9);
}

TEST(StopSignals, SignalsWithinASecondMeanOneStop) {
  using Meaning = StopSignals::Meaning;
  StopSignals signals;
  EXPECT_EQ(signals.Take(100), Meaning::kStop);
  EXPECT_EQ(signals.Take(100), Meaning::kSame);
  EXPECT_EQ(signals.Take(100.9), Meaning::kSame);
  EXPECT_EQ(signals.Take(101.1), Meaning::kAtOnce);
}

}  // namespace
}  // namespace h2o
