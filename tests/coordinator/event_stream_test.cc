// Events reach a callback in order and one at a time, whoever delivers them.
#include "coordinator/event_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace h2o {
namespace {

using ::testing::ElementsAre;

StreamEvent TokenEvent(int32_t token) {
  StreamEvent event;
  event.tokens = {token};
  return event;
}

TEST(EventStream, NothingIsDeliveredBeforeDeliver) {
  std::vector<int32_t> seen;
  EventStream stream(
      [&](const StreamEvent& e) { seen.push_back(e.tokens[0]); });
  EXPECT_TRUE(stream.Add(TokenEvent(1)));
  EXPECT_FALSE(stream.Add(TokenEvent(2))) << "the first who added delivers";
  EXPECT_THAT(seen, ElementsAre());
  stream.Deliver();
  EXPECT_THAT(seen, ElementsAre(1, 2));
  EXPECT_TRUE(stream.Add(TokenEvent(3)));
  stream.Deliver();
  EXPECT_THAT(seen, ElementsAre(1, 2, 3));
}

TEST(EventStream, AnEventThatTheCallbackCausesComesAfterIt) {
  std::vector<int32_t> seen;
  EventStream* self = nullptr;
  EventStream stream([&](const StreamEvent& e) {
    if (e.tokens[0] == 1) {
      EXPECT_FALSE(self->Add(TokenEvent(2)));
    }
    seen.push_back(e.tokens[0]);
  });
  self = &stream;
  ASSERT_TRUE(stream.Add(TokenEvent(1)));
  stream.Deliver();
  EXPECT_THAT(seen, ElementsAre(1, 2));
}

TEST(EventStream, InOrderAndOneAtATimeFromManyThreads) {
  constexpr int kThreads = 4, kEach = 500;
  std::atomic<int> inside = 0;
  std::vector<int32_t> seen;  // no lock: the callback runs in one thread
  EventStream stream([&](const StreamEvent& e) {
    EXPECT_EQ(++inside, 1);
    seen.push_back(e.tokens[0]);
    --inside;
  });
  std::mutex order;  // the Engine's lock
  int32_t next = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) {
        std::unique_lock lock(order);
        const bool mine = stream.Add(TokenEvent(next++));
        lock.unlock();
        if (mine) stream.Deliver();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_EQ(seen.size(), size_t{kThreads * kEach});
  for (int i = 0; i < kThreads * kEach; ++i) ASSERT_EQ(seen[i], i);
}

TEST(Outbox, DeliversTheStreamsItWasGiven) {
  std::vector<int32_t> seen;
  const auto stream = std::make_shared<EventStream>(
      [&](const StreamEvent& e) { seen.push_back(e.tokens[0]); });
  const auto silent = std::make_shared<EventStream>(nullptr);
  Outbox mine, others;
  EXPECT_TRUE(mine.empty());
  mine.Add(stream, TokenEvent(1));
  mine.Add(silent, TokenEvent(9));
  others.Add(stream, TokenEvent(2));
  EXPECT_TRUE(others.empty()) << "delivered with the first";
  mine.Deliver();
  EXPECT_THAT(seen, ElementsAre(1, 2));
  EXPECT_TRUE(mine.empty());
}

}  // namespace
}  // namespace h2o
