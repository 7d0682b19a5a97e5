// Checks that every thread and every item runs once, after a sleep too.
#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <vector>

namespace h2o {
namespace {

TEST(ThreadPool, EveryThreadRunsOnce) {
  for (int n : {1, 2, 5}) {
    ThreadPool pool(n);
    EXPECT_EQ(pool.num_threads(), n);
    for (int round = 0; round < 500; ++round) {
      std::vector<int> seen(n);
      pool.Run([&](int thread) { ++seen[thread]; });
      for (int count : seen) ASSERT_EQ(count, 1);
    }
  }
}

TEST(ThreadPool, ParallelForCoversEverythingOnce) {
  ThreadPool pool(3);
  for (int64_t total : {0, 1, 7, 100}) {
    for (int64_t grain : {1, 3, 1000}) {
      std::vector<int> seen(total);
      pool.ParallelFor(total, grain, [&](int64_t begin, int64_t end, int t) {
        ASSERT_LT(t, 3);
        for (int64_t i = begin; i < end; ++i) ++seen[i];
      });
      for (int count : seen) ASSERT_EQ(count, 1);
    }
  }
}

TEST(ThreadPool, WakesAfterSleeping) {
  ThreadPool pool(2);
  int sum = 0;
  for (int i = 0; i < 3; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::vector<int> seen(2);
    pool.Run([&](int thread) { seen[thread] = 1; });
    sum += seen[0] + seen[1];
  }
  EXPECT_EQ(sum, 6);
}

}  // namespace
}  // namespace h2o
