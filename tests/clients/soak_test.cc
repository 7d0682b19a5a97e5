// The promise of exact admission, kept under load: a small pool, many more
// requests than fit, all policies mixed; nobody fails, pages never exceed the
// pool, and everyone gets what they would have got alone.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <random>
#include <thread>

#include "base/check.h"
#include "clients/bench_report.h"
#include "embedded/embedded.h"

namespace h2o {
namespace {

constexpr int kRequests = 200;
constexpr char kModel[] = "models/opt-demo";

// About 25 of the requests below at once: an eighth of them.
constexpr int64_t kPoolBytes = 24 << 20;

// What the process holds beside weights, pool and workspace: code, the
// tokenizer, requests, thread stacks.
constexpr int64_t kOtherBytes = 64 << 20;

std::vector<Request> MakeRequests() {
  std::mt19937 random(2026);
  std::vector<Request> requests(kRequests);
  for (Request& request : requests) {
    const int prompt = 1 + static_cast<int>(random() % 150);
    for (int i = 0; i < prompt; ++i) {
      request.tokens.push_back(static_cast<int32_t>(random() % 8192));
    }
    request.max_tokens = 1 + static_cast<int>(random() % 60);
    request.ignore_eos = random() % 2 == 0;
    KvPolicyRequest policy;
    policy.name = static_cast<KvPolicyName>(random() % 4);
    if (policy.name != KvPolicyName::kFull) {
      policy.budget_tokens = 16 + static_cast<int>(random() % 100);
    }
    request.kv_policy = policy;
    if (random() % 3 == 0) request.sampling = {0.9f, 50, 0.9f, random()};
  }
  return requests;
}

std::unique_ptr<Embedded> Load(int max_queue) {
  EmbeddedOptions options;
  options.shard.model.model = kModel;
  options.shard.size = 2;
  options.shard.num_threads = 0;
  options.shard.kv_pool_bytes = kPoolBytes;
  options.engine.max_queue = max_queue;
  options.engine.max_sequences = kRequests;
  auto embedded = Embedded::Create(options, nullptr);
  H2O_CHECK(embedded.ok()) << embedded.status();
  return *std::move(embedded);
}

struct Answer {
  std::vector<int32_t> tokens;
  absl::Status status;
};

std::vector<Answer> RunAll(Embedded* embedded, std::vector<Request> requests) {
  std::vector<Answer> answers(requests.size());
  const absl::Status ran =
      embedded->Run(std::move(requests), [&](int i, const StreamEvent& event) {
        auto& tokens = answers[i].tokens;
        tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
        if (event.done) answers[i].status = event.status;
      });
  EXPECT_TRUE(ran.ok()) << ran;
  return answers;
}

TEST(Soak, TwoHundredRequestsOfEightTimesTheLoadThatFits) {
  const int64_t resident_before = PeakResidentBytes();
  const std::unique_ptr<Embedded> embedded = Load(kRequests);
  const std::vector<Request> requests = MakeRequests();

  std::atomic<bool> stop{false};
  std::atomic<int> looks{0}, idle_heads{0};
  std::thread watcher([&] {
    while (!stop) {
      const Engine::Counters c = embedded->engine().counters();
      ++looks;
      idle_heads += c.head_fits;
      EXPECT_LE(c.slabs_held, c.slabs_total);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  const std::vector<Answer> together = RunAll(embedded.get(), requests);
  stop = true;
  watcher.join();

  const Engine::Counters counters = embedded->engine().counters();
  EXPECT_EQ(counters.finished, kRequests);
  EXPECT_EQ(counters.refused, 0);
  EXPECT_EQ(counters.slabs_held, 0);
  EXPECT_LE(counters.peak_slabs_held, counters.slabs_total);
  EXPECT_GT(counters.peak_slabs_held, counters.slabs_total * 3 / 4)
      << "the pool was never short: no soak";
  EXPECT_GT(looks, 10);
  EXPECT_EQ(idle_heads, 0) << "the head of the queue waited without a reason";

  const MemoryPlan plan = embedded->group_info().memory();
  const int64_t planned = plan.weights + plan.workspace + plan.kv_pool;
  const int64_t resident = PeakResidentBytes();
  std::printf(
      "%d requests, %d looks; %.0f MB resident at most: %.0f before loading, "
      "%.0f planned (%.0f weights, %.0f workspace, %.0f KV pool)\n",
      kRequests, looks.load(), resident / 1e6, resident_before / 1e6,
      planned / 1e6, plan.weights / 1e6, plan.workspace / 1e6,
      plan.kv_pool / 1e6);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LE(resident, resident_before + planned + kOtherBytes);
#endif

  for (int i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(together[i].status.ok()) << together[i].status;
    const std::vector<Answer> alone = RunAll(embedded.get(), {requests[i]});
    ASSERT_EQ(together[i].tokens, alone[0].tokens) << "request " << i;
  }
}

TEST(Soak, AShortQueueRefusesTheRest) {
  const std::unique_ptr<Embedded> embedded = Load(20);
  std::atomic<int> finished{0};
  int taken = 0, refused = 0;
  for (Request& request : MakeRequests()) {
    request.max_tokens = 60;
    request.ignore_eos = true;
    const auto id =
        embedded->engine().Submit(request, [&](const StreamEvent& event) {
          if (!event.done) return;
          EXPECT_TRUE(event.status.ok()) << event.status;
          ++finished;
        });
    if (id.ok()) {
      ++taken;
    } else {
      EXPECT_EQ(id.status().code(), absl::StatusCode::kResourceExhausted);
      ++refused;
    }
  }
  embedded->engine().Drain(300);
  EXPECT_GT(refused, 50);
  EXPECT_EQ(taken + refused, kRequests);
  EXPECT_EQ(finished, taken);
}

}  // namespace
}  // namespace h2o
