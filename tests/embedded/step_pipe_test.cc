// Frames over a pair of sockets: whole, interrupted, cut short and damaged.
#include "embedded/step_pipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "model/step_codec.h"
#include "parallel/unique_fd.h"
#include "tests/model/loaded_rank.h"
#include "tests/model/sample_steps.h"

namespace h2o {
namespace {

using ::testing::HasSubstr;

struct Pair {
  Pair() {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    a = UniqueFd(ends[0]);
    b = UniqueFd(ends[1]);
  }
  UniqueFd a, b;
};

// A plan and a result of kConfig that do not fit a socket's buffer, perhaps.
const ModelConfig kConfig = SampleConfig();
StepPlan LargePlan() {
  StepPlan plan = SamplePlan();
  for (uint64_t id = 100; id < 100'000; ++id) plan.decode.push_back(id);
  return plan;
}
StepResult LargeResult() {
  StepResult result = SampleResult();
  result.logits[0].rows.assign(5 << 20, 1.5f);
  result.logits[0].rows.resize((5 << 20) / 100 * 100);
  result.logits[0].rows.back() = 2.5f;
  return result;
}

TEST(StepPipe, PlansComeAsTheyWent) {
  Pair pair;
  for (const StepPlan& plan : {SamplePlan(), LargePlan(), SamplePlan()}) {
    std::thread writer(
        [&] { EXPECT_TRUE(WritePlan(pair.a.get(), Encode(plan)).ok()); });
    const auto read = ReadPlan(pair.b.get(), kConfig);
    writer.join();
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, plan);
  }
}

TEST(StepPipe, NewsComesInOrder) {
  Pair pair;
  const int a = pair.a.get();
  const auto next = [&] { return ReadNews(pair.b.get(), kConfig).value(); };
  const RankInfo info = LoadedRank(kConfig, 11);
  EXPECT_TRUE(WriteNews(a, RankProgress{0.25}).ok());
  EXPECT_TRUE(WriteNews(a, info).ok());
  EXPECT_TRUE(WriteNews(a, SampleResult()).ok());
  EXPECT_TRUE(
      WriteNews(a, RankFailure{absl::ResourceExhaustedError("no memory")})
          .ok());
  EXPECT_TRUE(WriteNews(a, RankFailure{absl::UnavailableError("")}).ok());
  EXPECT_TRUE(WriteNews(a, RankTimes{{{1024, 7, 0.5}, {2048, 8}}}).ok());
  EXPECT_EQ(std::get<RankProgress>(next()).fraction, 0.25);
  EXPECT_EQ(std::get<RankInfo>(next()), info);
  EXPECT_EQ(std::get<StepResult>(next()), SampleResult());
  EXPECT_EQ(std::get<RankFailure>(next()).status,
            absl::ResourceExhaustedError("no memory"));
  EXPECT_EQ(std::get<RankFailure>(next()).status, absl::UnavailableError(""));
  const auto times = std::get<RankTimes>(next()).times;
  ASSERT_EQ(times.size(), 2u);
  EXPECT_EQ(times[0].median, 0.5);
  EXPECT_EQ(times[1].bytes, 2048);
}

TEST(StepPipe, WhatTheModelCannotHaveIsRefused) {
  Pair pair;
  StepPlan plan = SamplePlan();
  plan.admit[0].prompt = {kConfig.vocab_size};
  EXPECT_TRUE(WritePlan(pair.a.get(), Encode(plan)).ok());
  EXPECT_EQ(ReadPlan(pair.b.get(), kConfig).status().code(),
            absl::StatusCode::kInvalidArgument);
  StepResult result = SampleResult();
  result.tokens[0].token = -1;
  EXPECT_TRUE(WriteNews(pair.a.get(), result).ok());
  EXPECT_EQ(ReadNews(pair.b.get(), kConfig).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// A result of many times the socket's buffer, while signals interrupt.
TEST(StepPipe, LargeFramesPassInterruptedPipes) {
  struct sigaction nothing = {};
  nothing.sa_handler = [](int) {};
  struct sigaction before = {};
  ASSERT_EQ(sigaction(SIGUSR1, &nothing, &before), 0);  // without SA_RESTART
  Pair pair;
  const StepResult result = LargeResult();
  const pthread_t reader = pthread_self();
  std::thread writer([&] {
    for (int i = 0; i < 20; ++i) {
      pthread_kill(reader, SIGUSR1);
      usleep(100);
    }
    EXPECT_TRUE(WriteNews(pair.a.get(), result).ok());
  });
  const pthread_t of_writer = writer.native_handle();
  for (int i = 0; i < 20; ++i) {
    pthread_kill(of_writer, SIGUSR1);
    usleep(300);
  }
  const auto read = ReadNews(pair.b.get(), kConfig);
  writer.join();
  ASSERT_EQ(sigaction(SIGUSR1, &before, nullptr), 0);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(std::get<StepResult>(*read), result);
}

// ---- Ends and damage

std::string BytesOf(const StepPlan& plan) {
  Pair pair;
  EXPECT_TRUE(WritePlan(pair.a.get(), Encode(plan)).ok());
  pair.a.Close();
  std::string bytes;
  char block[4096];
  for (ssize_t n; (n = read(pair.b.get(), block, sizeof(block))) > 0;) {
    bytes.append(block, n);
  }
  return bytes;
}

absl::StatusOr<StepPlan> ReadPlanOf(const std::string& bytes) {
  Pair pair;
  EXPECT_EQ(write(pair.a.get(), bytes.data(), bytes.size()),
            ssize_t(bytes.size()));
  pair.a.Close();
  return ReadPlan(pair.b.get(), kConfig);
}

TEST(StepPipe, AClosedEndIsUnavailable) {
  Pair pair;
  pair.a.Close();
  EXPECT_EQ(ReadPlan(pair.b.get(), kConfig).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReadNews(pair.b.get(), kConfig).status().code(),
            absl::StatusCode::kUnavailable);
  // And no SIGPIPE.
  EXPECT_EQ(WritePlan(pair.b.get(), Encode(SamplePlan())).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(WriteNews(pair.b.get(), RankProgress{}).code(),
            absl::StatusCode::kUnavailable);
}

TEST(StepPipe, WhatWasWrittenBeforeTheEndIsRead) {
  Pair pair;
  // The reader of `a` never read this, which resets the connection.
  EXPECT_TRUE(WritePlan(pair.b.get(), Encode(SamplePlan())).ok());
  EXPECT_TRUE(
      WriteNews(pair.a.get(), RankFailure{absl::InternalError("why")}).ok());
  pair.a.Close();
  EXPECT_EQ(
      std::get<RankFailure>(ReadNews(pair.b.get(), kConfig).value()).status,
      absl::InternalError("why"));
  EXPECT_EQ(ReadNews(pair.b.get(), kConfig).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST(StepPipe, TruncatedFramesAreUnavailable) {
  const std::string whole = BytesOf(SamplePlan());
  ASSERT_TRUE(ReadPlanOf(whole).ok());
  for (size_t n = 0; n < whole.size(); ++n) {
    const absl::Status status = ReadPlanOf(whole.substr(0, n)).status();
    ASSERT_EQ(status.code(), absl::StatusCode::kUnavailable) << n;
    ASSERT_THAT(std::string(status.message()),
                HasSubstr(n == 0 ? "closed" : "midst"));
  }
}

TEST(StepPipe, DamagedFramesAreDataLoss) {
  const std::string whole = BytesOf(SamplePlan());
  const auto expect_loss = [](const std::string& bytes) {
    EXPECT_EQ(ReadPlanOf(bytes).status().code(), absl::StatusCode::kDataLoss);
  };
  const auto with = [&](size_t at, uint64_t value) {
    std::string bytes = whole;
    std::memcpy(bytes.data() + at, &value, sizeof(value));
    return bytes;
  };
  expect_loss(with(0, ~uint64_t{0}));             // its length
  expect_loss(with(0, whole.size() - 17));        // a byte less
  expect_loss(with(0, whole.size() - 15) + "x");  // a byte more
  expect_loss(with(8, 1));                        // its kind
  expect_loss(with(16 + 8, uint64_t{1} << 61));   // the count of `retire`
  expect_loss(with(16 + 8, 1000));
  Pair pair;
  ASSERT_TRUE(WriteNews(pair.a.get(), RankProgress{}).ok());
  EXPECT_EQ(ReadPlan(pair.b.get(), kConfig).status().code(),
            absl::StatusCode::kDataLoss);
  ASSERT_TRUE(WritePlan(pair.a.get(), Encode(SamplePlan())).ok());
  EXPECT_EQ(ReadNews(pair.b.get(), kConfig).status().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace h2o
