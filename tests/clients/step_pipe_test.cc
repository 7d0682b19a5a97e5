#include "clients/step_pipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "parallel/unique_fd.h"
#include "tests/clients/same_answers.h"

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

// ---- Structs with random contents, and whether two have the same

class Random {
 public:
  explicit Random(uint64_t seed) : random_(seed) {}

  template <class T>
  T Number() {
    return static_cast<T>(random_());
  }
  bool Flag() { return random_() % 2 == 0; }
  template <class T>
  std::vector<T> Numbers(size_t most) {
    std::vector<T> numbers(random_() % (most + 1));
    for (T& n : numbers) n = Number<T>();
    return numbers;
  }
  template <class Fn>
  auto Several(size_t most, Fn&& make) {
    std::vector<decltype(make())> all;
    for (size_t n = random_() % (most + 1); n > 0; --n) all.push_back(make());
    return all;
  }

  SequenceSpec Spec(size_t most) {
    SequenceSpec spec;
    spec.id = random_();
    spec.prompt = Numbers<int32_t>(most);
    spec.max_tokens = Number<int32_t>();
    spec.ignore_eos = Flag();
    spec.sampling = {0.7f, Number<int32_t>(), 0.9f, random_()};
    spec.policy.name = static_cast<KvPolicyName>(random_() % 4);
    spec.policy.slots = Several(most, [this] {
      return KvSlots{Number<int32_t>(), Number<int32_t>(), Number<int32_t>(),
                     Number<int32_t>(), ScoreRule::kSum};
    });
    spec.trace = Flag();
    spec.forced = Numbers<int32_t>(most);
    spec.logits = Flag();
    return spec;
  }
  StepPlan Plan(size_t most) {
    StepPlan plan;
    plan.step = random_();
    plan.retire = Numbers<uint64_t>(most);
    plan.admit = Several(most, [&] { return Spec(most); });
    plan.prefill = Several(most, [&] {
      return PrefillSlice{Numbers<uint64_t>(most), Number<int32_t>(),
                          Number<int32_t>()};
    });
    plan.decode = Numbers<uint64_t>(most);
    return plan;
  }
  StepResult Result(size_t most) {
    StepResult result;
    result.step = random_();
    result.checksum = random_();
    result.tokens = Several(most, [this] {
      return TokenResult{random_(), Number<int32_t>(),
                         static_cast<FinishReason>(random_() % 3)};
    });
    result.trace = Several(most, [&] {
      return HeadTrace{random_(),         Number<int32_t>(),
                       Number<int32_t>(), Number<int32_t>(),
                       Number<int32_t>(), Numbers<int32_t>(most)};
    });
    result.logits = Several(most, [&] {
      LogitRows rows{random_(), Number<int32_t>(), {}};
      for (int16_t x : Numbers<int16_t>(most)) rows.rows.push_back(x);
      return rows;
    });
    result.prefill_seconds = Number<int32_t>() * 0.1;
    result.decode_seconds = Number<int32_t>() * 0.1;
    result.slowest_layer_seconds = Number<int32_t>() * 0.1;
    result.idle_seconds = Number<int32_t>() * 0.1;
    return result;
  }

 private:
  std::mt19937_64 random_;
};

void ExpectSame(const StepPlan& a, const StepPlan& b) {
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.retire, b.retire);
  EXPECT_EQ(a.decode, b.decode);
  ASSERT_EQ(a.admit.size(), b.admit.size());
  for (size_t i = 0; i < a.admit.size(); ++i) {
    const SequenceSpec &x = a.admit[i], &y = b.admit[i];
    EXPECT_EQ(x.id, y.id);
    EXPECT_EQ(x.prompt, y.prompt);
    EXPECT_EQ(x.max_tokens, y.max_tokens);
    EXPECT_EQ(x.ignore_eos, y.ignore_eos);
    EXPECT_EQ(x.sampling.temperature, y.sampling.temperature);
    EXPECT_EQ(x.sampling.top_k, y.sampling.top_k);
    EXPECT_EQ(x.sampling.top_p, y.sampling.top_p);
    EXPECT_EQ(x.sampling.seed, y.sampling.seed);
    EXPECT_EQ(x.policy.name, y.policy.name);
    EXPECT_EQ(x.policy.slots, y.policy.slots);
    EXPECT_EQ(x.trace, y.trace);
    EXPECT_EQ(x.forced, y.forced);
    EXPECT_EQ(x.logits, y.logits);
  }
  ASSERT_EQ(a.prefill.size(), b.prefill.size());
  for (size_t i = 0; i < a.prefill.size(); ++i) {
    EXPECT_EQ(a.prefill[i].sequence_ids, b.prefill[i].sequence_ids);
    EXPECT_EQ(a.prefill[i].layer_begin, b.prefill[i].layer_begin);
    EXPECT_EQ(a.prefill[i].layer_end, b.prefill[i].layer_end);
  }
}

void ExpectSame(const StepResult& a, const StepResult& b) {
  ExpectSameAnswers(a, b);
  EXPECT_EQ(a.prefill_seconds, b.prefill_seconds);
  EXPECT_EQ(a.decode_seconds, b.decode_seconds);
  EXPECT_EQ(a.slowest_layer_seconds, b.slowest_layer_seconds);
  EXPECT_EQ(a.idle_seconds, b.idle_seconds);
}

// ---- Round trips

TEST(StepPipe, PlansComeAsTheyWent) {
  Pair pair;
  Random random(1);
  for (size_t most : {0, 1, 3, 10, 30}) {
    for (int i = 0; i < 10; ++i) {
      const StepPlan plan = random.Plan(most);
      // Larger than the socket holds, perhaps.
      std::thread writer(
          [&] { EXPECT_TRUE(WritePlan(pair.a.get(), plan).ok()); });
      const auto read = ReadPlan(pair.b.get());
      writer.join();
      ASSERT_TRUE(read.ok()) << read.status();
      ExpectSame(*read, plan);
    }
  }
}

TEST(StepPipe, ResultsComeAsTheyWent) {
  Pair pair;
  Random random(2);
  for (size_t most : {0, 1, 3, 30, 500}) {
    const StepResult result = random.Result(most);
    std::thread writer(
        [&] { EXPECT_TRUE(WriteNews(pair.a.get(), result).ok()); });
    const auto read = ReadNews(pair.b.get());
    writer.join();
    ASSERT_TRUE(read.ok()) << read.status();
    ASSERT_TRUE(std::holds_alternative<StepResult>(*read));
    ExpectSame(std::get<StepResult>(*read), result);
  }
}

TEST(StepPipe, OtherNewsComesInOrder) {
  Pair pair;
  const int a = pair.a.get(), b = pair.b.get();
  const KvGeometry geometry = {3, 6, {80, DType::kBFloat16}};
  EXPECT_TRUE(WriteNews(a, RankProgress{0.25}).ok());
  const std::vector<SumTimes> sums = {{16, {0, 1, 2, 3}}, {17, {4, 5, 6, 7}}};
  EXPECT_TRUE(
      WriteNews(a, RankReady{11, 12, {13, 14, 15}, geometry, sums}).ok());
  EXPECT_TRUE(
      WriteNews(a, RankFailure{absl::ResourceExhaustedError("no memory")})
          .ok());
  EXPECT_TRUE(WriteNews(a, RankFailure{absl::UnavailableError("")}).ok());
  EXPECT_TRUE(WriteNews(a, RankTimes{{{1024, 7, 0.5}, {2048, 8}}}).ok());
  EXPECT_EQ(std::get<RankProgress>(ReadNews(b).value()).fraction, 0.25);
  const auto ready = std::get<RankReady>(ReadNews(b).value());
  EXPECT_EQ(ready.num_pages, 11);
  EXPECT_EQ(ready.packed_tokens, 12);
  EXPECT_EQ(ready.memory.weights, 13);
  EXPECT_EQ(ready.memory.workspace, 14);
  EXPECT_EQ(ready.memory.kv_pool, 15);
  EXPECT_EQ(ready.geometry.num_layers, 3);
  EXPECT_EQ(ready.geometry.num_heads, 6);
  EXPECT_EQ(ready.geometry.PageBytes(), geometry.PageBytes());
  ASSERT_EQ(ready.sums.size(), 2u);
  EXPECT_EQ(ready.sums[1].rows, 17);
  EXPECT_EQ(ready.sums[1].seconds, sums[1].seconds);
  EXPECT_EQ(std::get<RankFailure>(ReadNews(b).value()).status,
            absl::ResourceExhaustedError("no memory"));
  EXPECT_EQ(std::get<RankFailure>(ReadNews(b).value()).status,
            absl::UnavailableError(""));
  const auto times = std::get<RankTimes>(ReadNews(b).value()).times;
  ASSERT_EQ(times.size(), 2u);
  EXPECT_EQ(times[0].median, 0.5);
  EXPECT_EQ(times[1].bytes, 2048);
}

// A result of many times the socket's buffer, while signals interrupt.
TEST(StepPipe, LargeFramesPassInterruptedPipes) {
  struct sigaction nothing = {};
  nothing.sa_handler = [](int) {};
  struct sigaction before = {};
  ASSERT_EQ(sigaction(SIGUSR1, &nothing, &before), 0);  // without SA_RESTART
  Pair pair;
  StepResult result;
  result.logits.push_back({7, 0, std::vector<float>(5 << 20, 1.5f)});
  result.logits[0].rows.back() = 2.5f;
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
  const auto read = ReadNews(pair.b.get());
  writer.join();
  ASSERT_EQ(sigaction(SIGUSR1, &before, nullptr), 0);
  ASSERT_TRUE(read.ok()) << read.status();
  ExpectSame(std::get<StepResult>(*read), result);
}

// ---- Ends and damage

std::string BytesOf(const StepPlan& plan) {
  Pair pair;
  EXPECT_TRUE(WritePlan(pair.a.get(), plan).ok());
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
  return ReadPlan(pair.b.get());
}

TEST(StepPipe, AClosedEndIsUnavailable) {
  Pair pair;
  pair.a.Close();
  EXPECT_EQ(ReadPlan(pair.b.get()).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReadNews(pair.b.get()).status().code(),
            absl::StatusCode::kUnavailable);
  // And no SIGPIPE.
  EXPECT_EQ(WritePlan(pair.b.get(), {}).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(WriteNews(pair.b.get(), RankProgress{}).code(),
            absl::StatusCode::kUnavailable);
}

TEST(StepPipe, WhatWasWrittenBeforeTheEndIsRead) {
  Pair pair;
  // The reader of `a` never read this, which resets the connection.
  EXPECT_TRUE(WritePlan(pair.b.get(), {}).ok());
  EXPECT_TRUE(
      WriteNews(pair.a.get(), RankFailure{absl::InternalError("why")}).ok());
  pair.a.Close();
  EXPECT_EQ(std::get<RankFailure>(ReadNews(pair.b.get()).value()).status,
            absl::InternalError("why"));
  EXPECT_EQ(ReadNews(pair.b.get()).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST(StepPipe, TruncatedFramesAreUnavailable) {
  const std::string whole = BytesOf(Random(3).Plan(3));
  ASSERT_TRUE(ReadPlanOf(whole).ok());
  for (size_t n = 0; n < whole.size(); ++n) {
    const absl::Status status = ReadPlanOf(whole.substr(0, n)).status();
    ASSERT_EQ(status.code(), absl::StatusCode::kUnavailable) << n;
    ASSERT_THAT(std::string(status.message()),
                HasSubstr(n == 0 ? "closed" : "midst"));
  }
}

TEST(StepPipe, DamagedFramesAreDataLoss) {
  const std::string whole = BytesOf(Random(4).Plan(3));
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
  EXPECT_EQ(ReadPlan(pair.b.get()).status().code(),
            absl::StatusCode::kDataLoss);
  ASSERT_TRUE(WritePlan(pair.a.get(), {}).ok());
  EXPECT_EQ(ReadNews(pair.b.get()).status().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace h2o
