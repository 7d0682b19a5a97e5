// This process forks ranks again and again, so it must have one thread when it
// does: what a group of threads answers is asked in a process of its own.
#include "embedded/forked_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "embedded/local_group.h"
#include "embedded/step_pipe.h"
#include "parallel/unique_fd.h"
#include "tests/base/seconds_since.h"
#include "tests/worker/tiny_model.h"

namespace h2o {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

constexpr int kSteps = 12;

ShardOptions TinyGroup(int tp) {
  ShardOptions options;
  options.config = TinyConfig();
  options.model.dummy = true;
  options.model.dummy_seed = 5;
  options.size = tp;
  options.num_threads = tp;
  options.kv_pool_bytes = 8 << 20;
  options.max_sequences = 16;
  return options;
}

std::unique_ptr<ForkedGroup> Fork(const ShardOptions& options) {
  auto group = ForkedGroup::Create(options, nullptr);
  EXPECT_TRUE(group.ok()) << group.status();
  return *std::move(group);
}

SequenceSpec Spec(uint64_t id, int prompt, KvPolicyName policy) {
  SequenceSpec spec;
  spec.id = id;
  for (int i = 0; i < prompt; ++i) {
    spec.prompt.push_back(static_cast<int32_t>((i * 37 + id * 11) % 150));
  }
  spec.max_tokens = 2 * kSteps;
  spec.ignore_eos = true;
  KvPolicyRequest request;
  request.name = policy;
  if (policy != KvPolicyName::kFull) request.budget_tokens = 16;
  spec.policy = ResolveKvPolicy(request, prompt, spec.max_tokens, 0).value();
  return spec;
}

// Three sequences: greedy, evicting and traced, drawn and with logits.
StepPlan FirstPlan() {
  StepPlan plan;
  plan.step = 1;
  plan.admit = {Spec(1, 5, KvPolicyName::kFull),
                Spec(2, 40, KvPolicyName::kH2o),
                Spec(3, 23, KvPolicyName::kSink)};
  plan.admit[1].trace = true;
  plan.admit[2].sampling = {0.9f, 50, 0.9f, 1234};
  plan.admit[2].logits = true;
  for (uint64_t id : {1, 2, 3}) plan.prefill.push_back({{id}, 0, 3});
  plan.decode = {1, 2, 3};
  return plan;
}
StepPlan NextPlan(uint64_t step) {
  StepPlan plan;
  plan.step = step;
  plan.decode = {1, 2, 3};
  return plan;
}

// kSteps plans, one ahead.
std::vector<StepResult> RunSteps(WorkerGroup* group) {
  std::vector<StepResult> results;
  EXPECT_TRUE(group->Submit(FirstPlan()).ok());
  for (int step = 2; step <= kSteps + 1; ++step) {
    if (step <= kSteps) {
      EXPECT_TRUE(group->Submit(NextPlan(step)).ok());
    }
    auto result = group->Next();
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) break;
    results.push_back(std::move(result->step));
  }
  return results;
}

// What `run` returns in another process.
std::vector<StepResult> InChild(
    const std::function<std::vector<StepResult>()>& run) {
  int ends[2];
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  UniqueFd ours(ends[0]), theirs(ends[1]);
  const pid_t child = fork();
  if (child == 0) {
    ours.Close();
    for (StepResult& result : run()) {
      EXPECT_TRUE(WriteNews(theirs.get(), std::move(result)).ok());
    }
    std::fflush(nullptr);
    _exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  theirs.Close();
  std::vector<StepResult> results;
  while (true) {
    auto news = ReadNews(ours.get(), TinyConfig());
    if (!news.ok()) break;
    results.push_back(std::get<StepResult>(*std::move(news)));
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  return results;
}

StepResult WithoutTimes(StepResult result) {
  result.prefill_seconds = result.decode_seconds = 0;
  result.slowest_layer_seconds = result.idle_seconds = 0;
  result.sum_wait_seconds = 0;
  return result;
}

TEST(ForkedGroup, AnswersAsThreadsDo) {
  for (int tp : {1, 2, 3}) {
    SCOPED_TRACE(absl::StrCat("tp ", tp));
    std::vector<double> fractions;
    auto group = ForkedGroup::Create(TinyGroup(tp),
                                     [&](double f) { fractions.push_back(f); });
    ASSERT_TRUE(group.ok()) << group.status();
    const std::vector<StepResult> forked = RunSteps(group->get());
    const GroupInfo info = (*group)->info();
    EXPECT_TRUE((*group)->status().ok()) << (*group)->status();
    group->reset();

    const std::vector<StepResult> threads = InChild([&] {
      auto local = LocalGroup::Create(TinyGroup(tp), nullptr);
      EXPECT_TRUE(local.ok()) << local.status();
      EXPECT_EQ(info.ranks, (*local)->info().ranks);
      return RunSteps(local->get());
    });
    ASSERT_EQ(forked.size(), size_t(kSteps));
    ASSERT_EQ(threads.size(), size_t(kSteps));
    size_t traces = 0, logits = 0;
    for (int i = 0; i < kSteps; ++i) {
      SCOPED_TRACE(absl::StrCat("step ", i + 1));
      EXPECT_EQ(WithoutTimes(forked[i]), WithoutTimes(threads[i]));
      traces += forked[i].trace.size();
      logits += forked[i].logits.size();
    }
    EXPECT_GE(traces, size_t(kSteps * 18));
    EXPECT_GE(logits, size_t(kSteps));
    for (size_t i = 0; i < fractions.size(); ++i) {
      EXPECT_GT(fractions[i], i == 0 ? 0 : fractions[i - 1]);
      EXPECT_LE(fractions[i], 1 + 1e-9);
    }
  }
}

// ---- Faults

void ExpectNamesTheDead(const absl::Status& status, int rank, pid_t pid) {
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(absl::StrCat("rank ", rank, " (pid ", pid,
                                     ") was killed by signal 9")));
}

TEST(ForkedGroup, ARankThatDiesWhileIdleIsNoticed) {
  const std::unique_ptr<ForkedGroup> group = Fork(TinyGroup(3));
  RunSteps(group.get());
  EXPECT_TRUE(group->status().ok());
  const pid_t victim = group->pids()[1];
  kill(victim, SIGKILL);
  const auto start = Steady::now();
  while (group->status().ok() && SecondsSince(start) < 10) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_LT(SecondsSince(start), 4);
  ExpectNamesTheDead(group->status(), 1, victim);
  ExpectNamesTheDead(group->Submit(NextPlan(kSteps + 1)), 1, victim);
  ExpectNamesTheDead(group->Next().status(), 1, victim);
}

TEST(ForkedGroup, TheDeadRankIsNamedAndNotWhoComplainsOfIt) {
  for (int dead : {0, 1}) {
    const std::unique_ptr<ForkedGroup> group = Fork(TinyGroup(2));
    RunSteps(group.get());
    const pid_t victim = group->pids()[dead];
    // The other one is within a sum by the time this one dies.
    kill(victim, SIGSTOP);
    ASSERT_TRUE(group->Submit(NextPlan(kSteps + 1)).ok());
    std::this_thread::sleep_for(milliseconds(200));
    kill(victim, SIGKILL);
    const auto start = Steady::now();
    ExpectNamesTheDead(group->Next().status(), dead, victim);
    EXPECT_LT(SecondsSince(start), 4);
  }
}

TEST(ForkedGroup, WhatARankSaysComesThrough) {
  for (int tp : {1, 2}) {
    const std::unique_ptr<ForkedGroup> group = Fork(TinyGroup(tp));
    RunSteps(group.get());
    ASSERT_TRUE(group->Submit(NextPlan(kSteps + 2)).ok());  // skips one
    const absl::Status status = group->Next().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
    EXPECT_EQ(absl::StartsWith(status.message(), "rank "), tp > 1) << status;
    EXPECT_EQ(group->status(), status);
  }
}

TEST(ForkedGroup, AbortEndsAWait) {
  const std::unique_ptr<ForkedGroup> group = Fork(TinyGroup(2));
  RunSteps(group.get());
  kill(group->pids()[1], SIGSTOP);
  ASSERT_TRUE(group->Submit(NextPlan(kSteps + 1)).ok());
  std::thread aborter([&] {
    std::this_thread::sleep_for(milliseconds(100));
    group->Abort(absl::CancelledError("enough"));
  });
  EXPECT_EQ(group->Next().status(), absl::CancelledError("enough"));
  EXPECT_EQ(group->status(), absl::CancelledError("enough"));
  EXPECT_EQ(group->Submit(NextPlan(kSteps + 2)),
            absl::CancelledError("enough"));
  aborter.join();
}

TEST(ForkedGroup, LoadErrorsComeThrough) {
  ShardOptions options = TinyGroup(2);
  options.kv_pool_bytes = 1;
  const absl::Status small = ForkedGroup::Create(options, nullptr).status();
  EXPECT_EQ(small.code(), absl::StatusCode::kInvalidArgument) << small;
  EXPECT_THAT(std::string(small.message()), HasSubstr("kv-pool-bytes 1"));

  options = TinyGroup(2);
  options.model = {.model = "/no/such/model"};
  EXPECT_FALSE(ForkedGroup::Create(options, nullptr).ok());

  const absl::Status many = ForkedGroup::Create(TinyGroup(7), nullptr).status();
  EXPECT_EQ(many.code(), absl::StatusCode::kInvalidArgument) << many;

  options = TinyGroup(2);
  options.device = {.cuda = true, .ordinal = 98};  // and so 99
  const absl::Status gpu = ForkedGroup::Create(options, nullptr).status();
  EXPECT_EQ(gpu.code(), absl::StatusCode::kFailedPrecondition) << gpu;
  EXPECT_THAT(std::string(gpu.message()), HasSubstr("device cuda"));
}

// ---- Ends

// Gone, or a zombie that nobody fetches.
bool IsOver(pid_t pid) {
  std::ifstream stat(absl::StrCat("/proc/", pid, "/stat"));
  std::string line;
  if (!std::getline(stat, line)) return true;
  const size_t state = line.rfind(") ");
  return state == std::string::npos || line[state + 2] == 'Z';
}

TEST(ForkedGroup, LeavesNoProcess) {
  std::unique_ptr<ForkedGroup> group = Fork(TinyGroup(2));
  const std::vector<pid_t> pids = group->pids();
  // With a plan that runs, and results that nobody has taken.
  ASSERT_TRUE(group->Submit(FirstPlan()).ok());
  ASSERT_TRUE(group->Submit(NextPlan(2)).ok());
  const auto start = Steady::now();
  group.reset();
  EXPECT_LT(SecondsSince(start), 5);
  for (pid_t pid : pids) {
    EXPECT_EQ(kill(pid, 0), -1);
    EXPECT_EQ(errno, ESRCH);
  }
}

TEST(ForkedGroup, RanksDieWithTheirParent) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t parent = fork();
  if (parent == 0) {
    const std::unique_ptr<ForkedGroup> group = Fork(TinyGroup(2));
    const size_t bytes = group->pids().size() * sizeof(pid_t);
    if (write(ends[1], group->pids().data(), bytes) != ssize_t(bytes)) {
      _exit(1);
    }
    pause();
  }
  close(ends[1]);
  pid_t pids[2] = {};
  ASSERT_EQ(read(ends[0], pids, sizeof(pids)), ssize_t(sizeof(pids)));
  close(ends[0]);
  EXPECT_FALSE(IsOver(pids[0]));
  kill(parent, SIGKILL);
  waitpid(parent, nullptr, 0);
  const auto start = Steady::now();
  while (!(IsOver(pids[0]) && IsOver(pids[1])) && SecondsSince(start) < 10) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_LT(SecondsSince(start), 5);
}

// Both larger than a socket holds.
TEST(ForkedGroup, LargePlansAndResultsPassEachOther) {
  ShardOptions options = TinyGroup(2);
  options.max_sequences = 600;
  options.kv_pool_bytes = 256 << 20;
  const std::unique_ptr<ForkedGroup> group = Fork(options);
  StepPlan first;
  first.step = 1;
  for (uint64_t id = 1; id <= 8; ++id) {
    first.admit.push_back(Spec(id, 230, KvPolicyName::kFull));
    first.admit.back().logits = true;
    first.prefill.push_back({{id}, 0, 3});
  }
  StepPlan second;
  second.step = 2;
  for (uint64_t id = 100; id < 600; ++id) {
    second.admit.push_back(Spec(id, 230, KvPolicyName::kH2o));
  }
  ASSERT_TRUE(group->Submit(first).ok());
  ASSERT_TRUE(group->Submit(second).ok());
  const auto result = group->Next();
  ASSERT_TRUE(result.ok()) << result.status();
  size_t floats = 0;
  for (const LogitRows& rows : result->step.logits) floats += rows.rows.size();
  EXPECT_EQ(floats, size_t{8} * 230 * 150);
  const auto next = group->Next();
  EXPECT_TRUE(next.ok()) << next.status();
}

}  // namespace
}  // namespace h2o
