// Checks the communicator of threads: sums, aborts and timeouts.
#include "parallel/thread_communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <tuple>
#include <vector>

#include "parallel/solo_communicator.h"
#include "tests/parallel/communicator_bodies.h"

namespace h2o {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

void RunThreads(int size, const testing::RankBody& body,
                double timeout_seconds = 60) {
  auto ranks = MakeThreadCommunicators(size, timeout_seconds);
  std::vector<std::thread> threads;
  for (auto& c : ranks) threads.emplace_back([&] { body(c.get()); });
  for (std::thread& t : threads) t.join();
}

class ThreadCommunicatorBodies
    : public ::testing::TestWithParam<std::tuple<testing::NamedBody, int>> {};

TEST_P(ThreadCommunicatorBodies, Pass) {
  const auto& [body, size] = GetParam();
  RunThreads(size, body.run);
}

INSTANTIATE_TEST_SUITE_P(
    All, ThreadCommunicatorBodies,
    ::testing::Combine(::testing::ValuesIn(testing::kBodies),
                       ::testing::ValuesIn(testing::kSizes)),
    [](const auto& info) {
      return std::string(std::get<0>(info.param).name) + "Of" +
             std::to_string(std::get<1>(info.param));
    });

TEST(SoloCommunicator, PassesTheBodies) {
  for (const testing::NamedBody& body : testing::kBodies) {
    SoloCommunicator solo;
    body.run(&solo);
  }
}

TEST(SoloCommunicator, FailsAfterAbort) {
  SoloCommunicator solo;
  solo.Abort(absl::CancelledError("enough"));
  float x = 1;
  EXPECT_EQ(solo.AllReduceSum(&x, 1, DType::kFloat32), absl::CancelledError("enough"));
  EXPECT_EQ(solo.AllGather(&x, {4}, &x), absl::CancelledError("enough"));
}

TEST(ThreadCommunicator, RanksOutOfStepFail) {
  RunThreads(2, testing::OutOfStep);
}

TEST(ThreadCommunicator, AbortWakesAllWithTheReason) {
  for (int64_t count : {10, 100000}) {
    auto ranks = MakeThreadCommunicators(3, 60);
    std::vector<std::thread> threads;
    for (int k = 0; k < 2; ++k) {  // rank 2 never comes
      threads.emplace_back([&, k] {
        std::vector<float> data(count);
        EXPECT_EQ(ranks[k]->AllReduceSum(data.data(), count),
                  absl::CancelledError("stop"));
        EXPECT_EQ(ranks[k]->AllReduceSum(data.data(), 0),
                  absl::CancelledError("stop"));
      });
    }
    std::this_thread::sleep_for(milliseconds(20));
    ranks[2]->Abort(absl::CancelledError("stop"));
    for (std::thread& t : threads) t.join();
  }
}

// A rank that returns with an error frees its data at once; nobody may still
// be at work on them.  (For the sanitizers.)
TEST(ThreadCommunicator, AbortAmidLargeOperationsIsSafe) {
  for (int round = 0; round < 30; ++round) {
    auto ranks = MakeThreadCommunicators(4, 60);
    std::vector<std::thread> threads;
    for (auto& c : ranks) {
      threads.emplace_back([&c] {
        absl::Status status;
        while (status.ok()) {
          std::vector<float> data(20000, 1.f);
          status = c->AllReduceSum(data.data(), data.size());
        }
        EXPECT_EQ(status, absl::CancelledError("stop"));
      });
    }
    std::this_thread::sleep_for(milliseconds(3));
    ranks[round % 4]->Abort(absl::CancelledError("stop"));
    for (std::thread& t : threads) t.join();
  }
}

TEST(ThreadCommunicator, TimeoutNamesTheMissingRanks) {
  RunThreads(
      4,
      [](Communicator* c) {
        float x = 1;
        ASSERT_TRUE(c->AllReduceSum(&x, 1).ok());
        if (c->rank() == 1 || c->rank() == 3) return;
        const absl::Status status = c->AllReduceSum(&x, 1);
        EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
        EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1, rank 3"));
        EXPECT_THAT(std::string(status.message()),
                    HasSubstr("all-reduce of 4 bytes"));
      },
      0.1);
}

}  // namespace
}  // namespace h2o
