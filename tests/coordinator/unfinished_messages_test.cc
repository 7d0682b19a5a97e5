// Tests who is said to hold too many bytes of messages that are not whole.
#include "coordinator/unfinished_messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace h2o {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kMiB = 1 << 20;

std::vector<int> CulpritsOf(const UnfinishedMessages& ledger, double now) {
  std::vector<int> connections;
  for (const auto& culprit : ledger.Culprits(now)) {
    connections.push_back(culprit.connection);
  }
  return connections;
}

TEST(UnfinishedMessages, MessagesThatAreTakenOweNothing) {
  UnfinishedMessages ledger({});
  ledger.Open(1);
  EXPECT_TRUE(ledger.IsSilent(1));
  int64_t came = 0;
  for (int i = 0; i < 1000; ++i) {
    came += kMiB + 300;  // with headers and frames
    ledger.Take(1, kMiB);
    ledger.Count(1, came, 0, i);
    EXPECT_EQ(ledger.total(), 0);
  }
  EXPECT_FALSE(ledger.IsSilent(1));
  EXPECT_THAT(CulpritsOf(ledger, 1000), IsEmpty());
}

TEST(UnfinishedMessages, WhatIsAnsweredOwesNothing) {
  UnfinishedMessages ledger({});
  ledger.Open(1);
  for (int i = 1; i <= 1000; ++i) ledger.Count(1, i * 17000, i * 17000, i);
  EXPECT_EQ(ledger.total(), 0);
}

TEST(UnfinishedMessages, CreditIsNotKept) {
  UnfinishedMessages ledger({});
  ledger.Open(1);
  ledger.Count(1, 100, 50 * kMiB, 1);  // a long answer
  ledger.Count(1, 100 + 3 * kMiB, 50 * kMiB, 2);
  EXPECT_EQ(ledger.total(), 3 * kMiB);
}

TEST(UnfinishedMessages, AConnectionHoldsAMessageForEachRead) {
  UnfinishedMessages ledger({.message = 4 * kMiB, .all = 100 * kMiB});
  ledger.Open(1);
  ledger.Count(1, 4 * kMiB, 0, 1);
  EXPECT_THAT(CulpritsOf(ledger, 1), IsEmpty());
  ledger.Count(1, 7 * kMiB, 0, 1);
  EXPECT_THAT(CulpritsOf(ledger, 1), ElementsAre(1));
  EXPECT_THAT(ledger.Culprits(1)[0].why, HasSubstr("7340032 bytes"));
  ledger.Read(1, 1);
  EXPECT_THAT(CulpritsOf(ledger, 1), IsEmpty());
  ledger.Read(1, -1);
  EXPECT_THAT(CulpritsOf(ledger, 1), ElementsAre(1));
  ledger.Close(1);
  EXPECT_THAT(CulpritsOf(ledger, 1), IsEmpty());
}

TEST(UnfinishedMessages, AMessageMustEndInTime) {
  UnfinishedMessages ledger({.seconds = 20});
  ledger.Open(1);
  ledger.Open(2);
  ledger.Count(1, 100'000, 0, 5);
  ledger.Count(2, 60'000, 0, 5);  // not worth it
  EXPECT_THAT(CulpritsOf(ledger, 24), IsEmpty());
  EXPECT_THAT(CulpritsOf(ledger, 26), ElementsAre(1));
  ledger.Take(1, 100'000);
  ledger.Count(1, 200'000, 0, 26);  // the next one has begun to come
  EXPECT_THAT(CulpritsOf(ledger, 26), IsEmpty());
}

// Bytes are often counted before their message is taken, and none may follow.
TEST(UnfinishedMessages, AMessageThatIsTakenIsOwedNoMore) {
  UnfinishedMessages ledger({});
  ledger.Open(1);
  ledger.Count(1, 2 * kMiB, 0, 0);
  EXPECT_EQ(ledger.Owing(), std::vector<int>{1});
  ledger.Take(1, kMiB);  // one of two that came
  EXPECT_EQ(ledger.total(), kMiB - 1024);
  EXPECT_EQ(ledger.Owing(), std::vector<int>{1});
  ledger.Count(1, 2 * kMiB, 0, 10);
  EXPECT_THAT(CulpritsOf(ledger, 29), IsEmpty());
  EXPECT_THAT(CulpritsOf(ledger, 31), ElementsAre(1));
  ledger.Take(1, kMiB);
  EXPECT_TRUE(ledger.Owing().empty());
  EXPECT_EQ(ledger.total(), 0);
}

TEST(UnfinishedMessages, ReadsThatAreGivenUpOweNothing) {
  UnfinishedMessages ledger({.message = 4 * kMiB, .all = 100 * kMiB});
  ledger.Open(1);
  EXPECT_FALSE(ledger.GiveUpReads(1, 0));  // there are none
  ledger.Read(1, 1);
  int64_t came = 0;
  for (int i = 0; i < 4; ++i) {
    came += 11 * kMiB;
    ledger.Count(1, came, 0, i);
    ASSERT_THAT(CulpritsOf(ledger, i), ElementsAre(1));
    EXPECT_TRUE(ledger.Culprits(i)[0].at_once);
    EXPECT_TRUE(ledger.GiveUpReads(1, i));
    EXPECT_EQ(ledger.total(), 0);
    came += kMiB;  // was on its way
    ledger.Count(1, came, 0, i);
    EXPECT_EQ(ledger.total(), 0);
  }
  EXPECT_FALSE(ledger.GiveUpReads(1, 4));  // too often
  EXPECT_TRUE(ledger.GiveUpReads(1, 20));
}

TEST(UnfinishedMessages, TheMostOfAllGoesFirst) {
  UnfinishedMessages ledger({.message = 4 * kMiB, .all = 9 * kMiB});
  for (int id = 1; id <= 4; ++id) {
    ledger.Open(id);
    ledger.Count(id, id * kMiB, 0, 0);
  }
  EXPECT_THAT(CulpritsOf(ledger, 0.5), IsEmpty());  // they may be whole soon
  EXPECT_THAT(CulpritsOf(ledger, 1.5), ElementsAre(4));
  ledger.Close(4);
  EXPECT_THAT(CulpritsOf(ledger, 1.5), IsEmpty());
}

}  // namespace
}  // namespace h2o
