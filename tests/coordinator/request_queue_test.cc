// Tests the order of service, removal and expiry of waiting requests.
#include "coordinator/request_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <set>
#include <vector>

namespace h2o {
namespace {

using ::testing::ElementsAre;

// What waits: token prompts, texts that are tokens by now, texts that are not.
enum class Kind { kTokens, kEncoded, kEncoding };

void Push(uint64_t id, Kind kind, RequestQueue* queue, double now = 0) {
  auto sequence = std::make_unique<Sequence>(id, kind != Kind::kTokens,
                                             std::vector<std::string>(),
                                             nullptr, nullptr, now);
  if (kind != Kind::kEncoding) {
    SequenceSpec spec;
    spec.prompt = {2};
    spec.max_tokens = 1;
    EXPECT_TRUE(sequence->SetSpec(std::move(spec)).ok());
  }
  queue->Push(std::move(sequence));
}

TEST(RequestQueue, TheNextThatFits) {
  using enum Kind;
  struct Case {
    const char* name;
    std::vector<Kind> kinds;  // of the requests 0, 1, ...
    std::set<uint64_t> fit;
    int may_pass;
    int64_t next;  // -1: none
  };
  const Case cases[] = {
      {"empty", {}, {}, 9, -1},
      {"the head", {kTokens, kTokens}, {0, 1}, 0, 0},
      {"the head keeps others waiting", {kTokens, kTokens}, {1}, 0, -1},
      {"one may pass it", {kTokens, kTokens}, {1}, 1, 1},
      {"but not two", {kTokens, kTokens, kTokens}, {2}, 1, -1},
      {"nothing fits", {kTokens, kTokens}, {}, 9, -1},
      {"a text that is not encoded", {kEncoding}, {0}, 9, -1},
      {"tokens pass it for nothing", {kEncoding, kTokens}, {0, 1}, 0, 1},
      {"texts do not", {kEncoding, kEncoded}, {0, 1}, 9, -1},
      {"tokens behind both", {kEncoding, kEncoded, kTokens}, {1, 2}, 0, 2},
      {"a text before it", {kEncoded, kEncoding}, {0, 1}, 0, 0},
      {"a head before it", {kEncoded, kEncoding, kTokens}, {2}, 0, -1},
  };
  for (const Case& c : cases) {
    RequestQueue queue;
    for (size_t i = 0; i < c.kinds.size(); ++i) Push(i, c.kinds[i], &queue);
    const Sequence* next = queue.Next(
        [&](Sequence& sequence) { return c.fit.contains(sequence.id()); },
        c.may_pass);
    EXPECT_EQ(next == nullptr ? -1 : static_cast<int64_t>(next->id()), c.next)
        << c.name;
    EXPECT_EQ(queue.size(), c.kinds.size()) << c.name;
  }
}

std::vector<uint64_t> Ids(const RequestQueue::Taken& taken) {
  std::vector<uint64_t> ids;
  for (const auto& sequence : taken) ids.push_back(sequence->id());
  return ids;
}

TEST(RequestQueue, FindsAndRemovesById) {
  RequestQueue queue;
  for (uint64_t id : {5, 6, 7}) Push(id, Kind::kTokens, &queue);
  EXPECT_EQ(queue.Find(6)->id(), 6u);
  EXPECT_EQ(queue.Remove(6)->id(), 6u);
  EXPECT_EQ(queue.Find(6), nullptr);
  EXPECT_EQ(queue.Remove(6), nullptr);
  EXPECT_THAT(Ids(queue.RemoveIf([](Sequence&) { return true; })),
              ElementsAre(5, 7));
  EXPECT_TRUE(queue.empty());
}

TEST(RequestQueue, RemovesWhatWaitedTooLong) {
  RequestQueue queue;
  Push(1, Kind::kTokens, &queue, 10);
  Push(2, Kind::kEncoding, &queue, 11);
  Push(3, Kind::kTokens, &queue, 12);
  EXPECT_THAT(Ids(queue.RemoveExpired(5, 15)), ElementsAre());
  EXPECT_THAT(Ids(queue.RemoveExpired(5, 16.5)), ElementsAre(1, 2));
  EXPECT_EQ(queue.size(), 1u);
}

}  // namespace
}  // namespace h2o
