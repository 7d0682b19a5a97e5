// Tests when lost workers start again.
#include "clients/restarts.h"

#include <gtest/gtest.h>

namespace h2o {
namespace {

TEST(Restarts, EachLossWaitsTwiceAsLong) {
  Restarts restarts;
  for (double wait : {1.0, 2.0, 4.0, 8.0}) EXPECT_EQ(restarts.Lost(0), wait);
  EXPECT_EQ(restarts.Lost(0), std::nullopt);
}

TEST(Restarts, AMinuteOfHealthForgetsEarlierLosses) {
  Restarts restarts;
  double now = 0;
  for (int i = 0; i < 20; ++i) {
    restarts.Ready(now);
    EXPECT_EQ(restarts.Lost(now += 61), 1.0);
  }
}

TEST(Restarts, ShortHealthForgetsNothing) {
  Restarts restarts;
  double now = 0;
  for (double wait : {1.0, 2.0, 4.0, 8.0}) {
    restarts.Ready(now);
    EXPECT_EQ(restarts.Lost(now += 59), wait);
  }
  restarts.Ready(now);
  EXPECT_EQ(restarts.Lost(now + 59), std::nullopt);
}

}  // namespace
}  // namespace h2o
