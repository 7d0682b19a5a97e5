// Tests that a monitor wakes the threads whose conditions hold.
#include "base/monitor.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace h2o {
namespace {

TEST(Monitor, WakesTheOneWhoseConditionHolds) {
  Monitor monitor;
  int turn = -1;
  std::vector<int> order;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      Monitor::Lock lock(monitor);
      lock.Await([&] { return turn == i; });
      order.push_back(i);
      turn = i - 1;  // the next is told when this lock goes
    });
  }
  {
    Monitor::Lock lock(monitor);
    turn = 3;
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(order, (std::vector<int>{3, 2, 1, 0}));
}

TEST(Monitor, AWaiterSleepsWhileItsConditionDoesNotHold) {
  Monitor monitor;
  bool open = false;
  std::atomic<int> evaluated = 0;
  std::thread::id waiter;
  std::atomic<int> by_the_waiter = 0;
  std::thread thread([&] {
    Monitor::Lock lock(monitor);
    waiter = std::this_thread::get_id();
    lock.Await([&] {
      ++evaluated;
      by_the_waiter += std::this_thread::get_id() == waiter;
      return open;
    });
  });
  // Each lock that others let go evaluates the condition, in their thread.
  while (evaluated < 100) Monitor::Lock lock(monitor);
  EXPECT_LE(by_the_waiter, 2) << "once before it waits, once as it begins to";
  {
    Monitor::Lock lock(monitor);
    open = true;
  }
  thread.join();
}

TEST(Monitor, TellsOfAChangeBeforeItWaitsItself) {
  Monitor monitor;
  int stage = 0;
  std::thread other([&] {
    Monitor::Lock lock(monitor);
    lock.Await([&] { return stage == 1; });
    stage = 2;
  });
  Monitor::Lock lock(monitor);
  stage = 1;
  lock.Await([&] { return stage == 2; });
  lock.Release();
  other.join();
}

TEST(Monitor, AWaitEndsWithItsTime) {
  Monitor monitor;
  Monitor::Lock lock(monitor);
  EXPECT_FALSE(lock.AwaitFor(0.001, [] { return false; }));
  EXPECT_TRUE(lock.AwaitFor(0, [] { return true; }));
}

}  // namespace
}  // namespace h2o
