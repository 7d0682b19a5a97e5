// Tests who is served next: tenants, priorities, ageing, heads that do not fit.
#include "coordinator/request_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace h2o {
namespace {

using ::testing::ElementsAre;
using Room = RequestQueue::Room;

// What waits: token prompts, texts that are tokens by now, texts that are not.
enum class Kind { kTokens, kEncoded, kEncoding };

struct Ask {
  uint64_t id = 0;
  std::string tenant = "default";
  double now = 0;
  int32_t priority = 0;
  int32_t max_tokens = 1;
  Kind kind = Kind::kTokens;
};

class QueueTest : public ::testing::Test {
 protected:
  TenantAccount* TenantOf(const Tenant& row, double now = 0) {
    return tenants_.Of(std::make_shared<Tenant>(row), now);
  }
  void Push(const Ask& ask) {
    Standing standing;
    standing.tenant = TenantOf({.name = ask.tenant}, ask.now);
    standing.priority = ask.priority;
    auto sequence = std::make_unique<Sequence>(
        ask.id, ask.kind != Kind::kTokens, AnswerForm(), nullptr, nullptr,
        ask.now, standing);
    if (ask.kind != Kind::kEncoding) Encode(sequence.get(), ask.max_tokens);
    queue_.Push(std::move(sequence), ask.now);
  }
  static void Encode(Sequence* sequence, int32_t max_tokens) {
    SequenceSpec spec;
    spec.prompt = {2};
    spec.max_tokens = max_tokens;
    EXPECT_TRUE(sequence->SetSpec(std::move(spec)).ok());
  }
  // The next of those that fit; 0: none.
  uint64_t Next(double now, const std::set<uint64_t>& fit) {
    Sequence* const next = queue_.Next(
        now,
        [&](Sequence& s) {
          return fit.contains(s.id()) ? Room::kFree : Room::kNone;
        },
        [&](Sequence& s) {
          if (!may_keep_) return false;
          kept_.push_back(s.id());
          return true;
        });
    return next == nullptr ? 0 : next->id();
  }
  uint64_t NextOfAll(double now) {
    Sequence* const next = queue_.Next(
        now, [](Sequence&) { return Room::kFree; },
        [](Sequence&) { return false; });
    return next == nullptr ? 0 : next->id();
  }
  // Serves all, in order.
  std::vector<uint64_t> Drain(double now) {
    std::vector<uint64_t> order;
    while (const uint64_t id = NextOfAll(now)) {
      order.push_back(id);
      queue_.Take(id, now);
    }
    return order;
  }

  TenantAccounts tenants_;
  RequestQueue queue_{&tenants_, /*head_patience_seconds=*/0.5};
  bool may_keep_ = true;
  std::vector<uint64_t> kept_;
};

TEST_F(QueueTest, TheOrderOfArrival) {
  for (uint64_t id : {1, 2, 3}) Push({.id = id});
  EXPECT_THAT(Drain(1), ElementsAre(1, 2, 3));
  EXPECT_EQ(NextOfAll(1), 0u);
  EXPECT_TRUE(queue_.empty());
}

// Three choices wait as one; the place stays when one of them goes.
TEST_F(QueueTest, AChoiceCanLeaveTheOthers) {
  for (const bool text : {false, true}) {
    const uint64_t first = text ? 20 : 10;
    std::unique_ptr<Sequence> lead;
    for (int32_t i : {0, 1, 2}) {
      auto choice = std::make_unique<Sequence>(
          first + i, text, AnswerForm(), nullptr, nullptr, /*now=*/0,
          Standing{.tenant = TenantOf({.name = "default"}),
                   .expected_tokens = 7},
          i);
      if (lead == nullptr) {
        lead = std::move(choice);
      } else {
        lead->Join(std::move(choice));
      }
    }
    if (!text) Encode(lead.get(), 4);
    const int64_t each = text ? 7 : 5;
    queue_.Push(std::move(lead), 0);
    EXPECT_EQ(queue_.size(), 3);
    EXPECT_EQ(queue_.tokens(), 3 * each);
    EXPECT_EQ(queue_.RemoveChoice(first + 1, 1)->id(), first + 1);
    EXPECT_EQ(queue_.RemoveChoice(first + 1, 1), nullptr);
    EXPECT_EQ(queue_.RemoveChoice(first + 3, 1), nullptr);
    EXPECT_EQ(queue_.RemoveChoice(first, 1)->id(), first);
    EXPECT_EQ(queue_.size(), 1);
    EXPECT_EQ(queue_.tokens(), each);
    Sequence* const rest = queue_.FindRequest(first);
    ASSERT_NE(rest, nullptr);
    EXPECT_EQ(rest->id(), first + 2);
    EXPECT_TRUE(rest->counts_prompt());
    if (text) {
      Encode(rest, 4);
      queue_.Refile(rest->id(), 1);
      EXPECT_EQ(rest->spec().sampling.seed, 2u);
    }
    EXPECT_THAT(Drain(1), ElementsAre(first + 2));
    EXPECT_EQ(queue_.size() + queue_.tokens(), 0);
  }
}

TEST_F(QueueTest, ATextThatIsEncodedKeepsOtherTextsBack) {
  Push({.id = 1, .kind = Kind::kEncoding});
  Push({.id = 2, .kind = Kind::kEncoded});
  Push({.id = 3});
  EXPECT_THAT(Drain(1), ElementsAre(3));
  Encode(queue_.Find(1), 1);
  queue_.Refile(1, 1);
  EXPECT_THAT(Drain(1), ElementsAre(1, 2));
  Push({.id = 4, .kind = Kind::kEncoding});
  Push({.id = 5, .kind = Kind::kEncoded});
  EXPECT_EQ(NextOfAll(1), 0u);
  queue_.Remove(4, 1);
  EXPECT_EQ(NextOfAll(1), 5u);
}

TEST_F(QueueTest, AHigherPriorityFirstAndAgeing) {
  Push({.id = 1, .now = 0, .priority = 0});
  Push({.id = 2, .now = 1, .priority = 3});
  Push({.id = 3, .now = 2, .priority = -1});
  Push({.id = 4, .now = 31.5, .priority = 3});  // id 1 is 31.5 s older
  EXPECT_THAT(Drain(32), ElementsAre(2, 1, 4, 3));
}

// However many of a high priority come, a low one is served in the end.
TEST_F(QueueTest, NobodyWaitsForEver) {
  Push({.id = 1, .now = 0, .priority = INT32_MIN});
  uint64_t id = 2;
  double now = 0;
  for (; queue_.Find(1) != nullptr && now < 10'000; now += 1) {
    Push({.id = id++, .now = now, .priority = INT32_MAX});
    queue_.Take(NextOfAll(now), now);
  }
  EXPECT_LE(
      now,
      2 * RequestQueue::kMostPriority * RequestQueue::kPrioritySeconds + 1);
}

TEST_F(QueueTest, OthersPassAHeadUntilItsPatienceIsOver) {
  Push({.id = 1});
  for (uint64_t id : {2, 3, 4}) Push({.id = id, .tenant = "other"});
  EXPECT_EQ(Next(10, {2, 3, 4}), 2u);
  queue_.Take(2, 10);
  EXPECT_EQ(Next(10.4, {3, 4}), 3u);
  EXPECT_THAT(kept_, ElementsAre());
  EXPECT_EQ(Next(10.5, {3, 4}), 3u) << "in another group";
  EXPECT_THAT(kept_, ElementsAre(1));
  EXPECT_EQ(Next(10.5, {1, 3, 4}), 3u) << "1 starts in its own group";
  EXPECT_EQ(queue_.size(), 3u);
  // The group is gone: it is in its line again, and still the most patient.
  queue_.LoseKept(1, 11);
  EXPECT_EQ(Next(11, {1}), 1u);
}

TEST_F(QueueTest, AHeadWithoutAGroupToKeepStopsNobody) {
  may_keep_ = false;
  Push({.id = 1});
  Push({.id = 2});
  EXPECT_EQ(Next(0, {2}), 2u);
  EXPECT_EQ(Next(9, {2}), 2u);
}

TEST_F(QueueTest, TheSearchIsBounded) {
  for (uint64_t id = 1; id <= 1000; ++id) {
    Push(
        {.id = id, .tenant = std::string(1, static_cast<char>('a' + id % 20))});
  }
  int looks = 0;
  queue_.HasOneFor(0, [&](Sequence&) {
    ++looks;
    return Room::kNone;
  });
  EXPECT_LE(looks, 64);
}

TEST_F(QueueTest, ALimitOfATenantStopsNobodyElse) {
  TenantOf({.name = "a", .max_running = 1});
  Push({.id = 1, .tenant = "a"});
  Push({.id = 2, .tenant = "a"});
  Push({.id = 3, .tenant = "b"});
  TenantAccount* const a = TenantOf({.name = "a", .max_running = 1});
  EXPECT_EQ(NextOfAll(0), 1u);
  queue_.Take(1, 0);
  tenants_.Start(a, {.most_tokens = 2, .pages = 1}, 0);
  EXPECT_THAT(Drain(0), ElementsAre(3));
  EXPECT_EQ(queue_.size(), 1u);
  tenants_.End(a, {.most_tokens = 2, .pages = 1}, 2, 1);
  EXPECT_THAT(Drain(1), ElementsAre(2));
}

TEST_F(QueueTest, FindsAndRemoves) {
  for (uint64_t id : {5, 6, 7}) Push({.id = id, .max_tokens = 9});
  EXPECT_EQ(queue_.tokens(), 30);
  EXPECT_EQ(queue_.Find(6)->id(), 6u);
  EXPECT_EQ(queue_.Remove(6, 0)->id(), 6u);
  EXPECT_EQ(queue_.Find(6), nullptr);
  EXPECT_EQ(queue_.Remove(6, 0), nullptr);
  EXPECT_EQ(queue_.tokens(), 20);
  std::vector<uint64_t> ids;
  for (const auto& s : queue_.RemoveIf([](Sequence&) { return true; }, 0)) {
    ids.push_back(s->id());
  }
  EXPECT_THAT(ids, ElementsAre(5, 7));
  EXPECT_TRUE(queue_.empty());
  EXPECT_EQ(queue_.tokens(), 0);
}

TEST_F(QueueTest, RemovesWhatWaitedTooLong) {
  Push({.id = 1, .now = 10});
  Push({.id = 2, .now = 11, .kind = Kind::kEncoding});
  Push({.id = 3, .now = 12});
  EXPECT_EQ(queue_.RemoveExpired(5, 15).size(), 0u);
  EXPECT_EQ(queue_.RemoveExpired(5, 16.5).size(), 2u);
  EXPECT_EQ(queue_.size(), 1u);
}

TEST_F(QueueTest, RemovesWhoseDeadlineHasPassed) {
  for (uint64_t id : {1, 2, 3}) {
    Standing standing;
    standing.tenant = TenantOf({});
    standing.deadline = static_cast<double>(20 - id);
    queue_.Push(std::make_unique<Sequence>(id, true, AnswerForm(), nullptr,
                                           nullptr, 0, standing),
                0);
  }
  Push({.id = 4});  // has none
  queue_.Remove(2, 1);
  EXPECT_EQ(queue_.RemoveDue(16.9).size(), 0u);
  EXPECT_EQ(queue_.RemoveDue(17).size(), 1u);
  EXPECT_EQ(queue_.RemoveDue(1e9).size(), 1u);
  EXPECT_EQ(queue_.size(), 1u);
}

// One request starts each second, and is over a second later.
TEST_F(QueueTest, TheWaitFollowsFromTheRateAndTheShare) {
  Standing standing;
  standing.tenant = TenantOf({});
  EXPECT_EQ(queue_.EstimateWait(standing, 10, 0), 1) << "nothing is known";
  uint64_t id = 0;
  for (int i = 0; i < 60; ++i) Push({.id = ++id, .max_tokens = 9});
  for (double now = 1; now <= 40; ++now) queue_.Take(NextOfAll(now), now);
  EXPECT_NEAR(queue_.EstimateWait(standing, 10, 40), 21, 2);
  standing.priority = 9;  // before all of these
  EXPECT_NEAR(queue_.EstimateWait(standing, 10, 40), 1, 0.2);
  standing.tenant = TenantOf({.name = "b", .weight = 3});
  EXPECT_NEAR(queue_.EstimateWait(standing, 10, 40), 1.33, 0.2);
}

// ---- A server in simulated time: `pages` pages, a token a second.

struct Job {
  std::string tenant;
  int32_t max_tokens = 10;
  int64_t pages = 1;
};

class Simulation {
 public:
  explicit Simulation(int64_t pages) : free_(pages) {
    tenants_.SetPoolPages(pages);
  }
  void AddTenant(const Tenant& row) {
    tenants_.Of(std::make_shared<Tenant>(row), now_);
  }
  void Submit(const Job& job) {
    const uint64_t id = ++last_id_;
    jobs_[id] = job;
    came_[id] = now_;
    Standing standing;
    standing.tenant =
        tenants_.Of(std::make_shared<Tenant>(RowOf(job.tenant)), now_);
    auto sequence = std::make_unique<Sequence>(id, false, AnswerForm(), nullptr,
                                               nullptr, now_, standing);
    SequenceSpec spec;
    spec.prompt = {2};
    spec.max_tokens = job.max_tokens;
    EXPECT_TRUE(sequence->SetSpec(std::move(spec)).ok());
    queue_.Push(std::move(sequence), now_);
    Place();
  }
  // Every second each request that runs makes a token.
  void Step() {
    now_ += 1;
    for (auto it = running_.begin(); it != running_.end();) {
      const Job& job = jobs_.at(it->first);
      ++tokens_[job.tenant];
      if (++it->second.made < job.max_tokens) {
        ++it;
        continue;
      }
      tenants_.End(it->second.tenant, ChargeOf(job), job.max_tokens + 1, now_);
      free_ += job.pages;
      it = running_.erase(it);
    }
    Place();
  }
  size_t waiting(const std::string& tenant) {
    return queue_.waiting(
        *tenants_.Of(std::make_shared<Tenant>(RowOf(tenant)), now_));
  }
  void SetRow(const Tenant& row) { rows_[row.name] = row; }
  double now() const { return now_; }
  int64_t tokens(const std::string& tenant) { return tokens_[tenant]; }
  const std::map<uint64_t, double>& waits() const { return waits_; }
  const Job& job(uint64_t id) const { return jobs_.at(id); }
  size_t running() const { return running_.size(); }
  bool empty() const { return queue_.empty(); }

 private:
  struct Run {
    TenantAccount* tenant;
    int32_t made = 0;
  };
  static TenantCharge ChargeOf(const Job& job) {
    return {.most_tokens = job.max_tokens + 1, .pages = job.pages};
  }
  Tenant RowOf(const std::string& name) {
    const auto it = rows_.find(name);
    return it == rows_.end() ? Tenant{.name = name} : it->second;
  }
  void Start(uint64_t id) {
    const std::unique_ptr<Sequence> sequence = queue_.Take(id, now_);
    TenantAccount* const tenant = sequence->standing().tenant;
    const Job& job = jobs_.at(id);
    free_ -= job.pages;
    EXPECT_GE(free_, 0) << "more pages than there are";
    tenants_.Start(tenant, ChargeOf(job), now_);
    running_[id] = {tenant};
    waits_[id] = now_ - came_[id];
  }
  // One group, as Placement has it.
  void Place() {
    while (true) {
      if (kept_ != 0 && queue_.Find(kept_) == nullptr) kept_ = 0;
      if (kept_ != 0) {
        if (jobs_.at(kept_).pages > free_) return;
        Start(std::exchange(kept_, 0));
        continue;
      }
      Sequence* const next = queue_.Next(
          now_,
          [&](Sequence& s) {
            return kept_ == 0 && jobs_.at(s.id()).pages <= free_ ? Room::kFree
                                                                 : Room::kNone;
          },
          [&](Sequence& s) {
            if (kept_ != 0) return false;
            kept_ = s.id();
            return true;
          });
      if (next == nullptr && kept_ == 0) return;
      if (next != nullptr && kept_ == 0) Start(next->id());
    }
  }

  TenantAccounts tenants_;
  RequestQueue queue_{&tenants_, 0.5};
  std::map<std::string, Tenant> rows_;
  int64_t free_;
  double now_ = 0;
  uint64_t last_id_ = 0;
  uint64_t kept_ = 0;
  std::map<uint64_t, Job> jobs_;
  std::map<uint64_t, double> came_, waits_;
  std::map<uint64_t, Run> running_;
  std::map<std::string, int64_t> tokens_;
};

// Keeps `n` requests of the job's tenant waiting.
void Fill(Simulation* simulation, const Job& job, size_t n) {
  while (simulation->waiting(job.tenant) < n) simulation->Submit(job);
}

TEST(Fairness, WeightsShareTheTokens) {
  for (const double weight : {1.0, 3.0, 10.0}) {
    Simulation simulation(16);
    simulation.SetRow({.name = "light", .weight = 1});
    simulation.SetRow({.name = "heavy", .weight = weight});
    for (int second = 0; second < 1500; ++second) {
      Fill(&simulation, {.tenant = "light"}, 20);
      Fill(&simulation, {.tenant = "heavy"}, 20);
      simulation.Step();
    }
    const double ratio = static_cast<double>(simulation.tokens("heavy")) /
                         static_cast<double>(simulation.tokens("light"));
    EXPECT_NEAR(ratio / weight, 1, 0.1) << weight;
  }
}

// Who asks for many tokens and takes few pays for those that it took, and whose
// requests hold more pages gets fewer tokens.
TEST(Fairness, PagesCostAsWellAsTokens) {
  Simulation simulation(64);
  for (int second = 0; second < 1500; ++second) {
    Fill(&simulation, {.tenant = "small", .pages = 1}, 80);
    Fill(&simulation, {.tenant = "large", .pages = 3}, 80);
    simulation.Step();
  }
  const double ratio = static_cast<double>(simulation.tokens("small")) /
                       static_cast<double>(simulation.tokens("large"));
  // Half of the cost is tokens, half page-seconds: of a mean of p pages, small
  // pays 1 + 1/p and large 1 + 3/p for a token.
  EXPECT_GT(ratio, 1.2);
  EXPECT_LT(ratio, 2.4);
}

// A tenant that comes back after an hour gets its half, and not the hour.
TEST(Fairness, TimeWithoutRequestsGivesNoCredit) {
  Simulation simulation(10);
  simulation.Submit({.tenant = "returns"});
  for (int second = 0; second < 3600; ++second) {
    Fill(&simulation, {.tenant = "stays"}, 20);
    simulation.Step();
  }
  const int64_t stays = simulation.tokens("stays");
  const int64_t returns = simulation.tokens("returns");
  for (int second = 0; second < 400; ++second) {
    Fill(&simulation, {.tenant = "stays"}, 20);
    Fill(&simulation, {.tenant = "returns"}, 20);
    simulation.Step();
  }
  EXPECT_NEAR(static_cast<double>(simulation.tokens("stays") - stays) /
                  static_cast<double>(simulation.tokens("returns") - returns),
              1, 0.1);
}

// A tenant with 20 times the load does not change how long another waits by
// more than one request.
TEST(Fairness, AHeavyTenantDoesNotDelayALightOne) {
  const auto longest_wait = [](int loads) {
    Simulation simulation(4);
    std::mt19937 random(7);
    for (int second = 0; second < 4000; ++second) {
      for (int i = 0; i < loads; ++i) {
        if (random() % 50 == 0) simulation.Submit({.tenant = "heavy"});
      }
      if (random() % 50 == 0) simulation.Submit({.tenant = "light"});
      simulation.Step();
    }
    double longest = 0;
    for (const auto& [id, wait] : simulation.waits()) {
      if (simulation.job(id).tenant == "light")
        longest = std::max(longest, wait);
    }
    return longest;
  };
  EXPECT_LE(longest_wait(20), 2 * longest_wait(1) + 10);
}

// Of 80 % of the pool, amid small ones that would keep it full for ever.
TEST(Fairness, ALargeRequestIsServed) {
  for (const char* tenant : {"large", "small"}) {
    Simulation simulation(100);
    for (int second = 0; second < 50; ++second) {
      Fill(&simulation, {.tenant = "small"}, 50);
      simulation.Step();
    }
    simulation.Submit({.tenant = tenant, .pages = 80});
    const auto id = std::find_if(
        simulation.waits().begin(), simulation.waits().end(),
        [&](const auto& w) { return simulation.job(w.first).pages == 80; });
    EXPECT_TRUE(id == simulation.waits().end()) << "there is no room yet";
    double wait = -1;
    for (int second = 0; second < 200 && wait < 0; ++second) {
      Fill(&simulation, {.tenant = "small"}, 50);
      simulation.Step();
      for (const auto& [started, waited] : simulation.waits()) {
        if (simulation.job(started).pages == 80) wait = waited;
      }
    }
    ASSERT_GE(wait, 0) << tenant;
    // The patience, in whole steps, and the longest request that runs; among
    // others of its tenant those before it come first.
    if (std::string(tenant) == "large") {
      EXPECT_LE(wait, 1 + 10);
    }
  }
}

// Whatever comes: nothing is lost, nothing starves, no page is given twice, and
// the server is never idle while something fits.
TEST(Fairness, RandomRunsServeEverybody) {
  for (uint32_t seed = 0; seed < 10; ++seed) {
    std::mt19937 random(seed);
    Simulation simulation(20 + random() % 80);
    size_t submitted = 0;
    for (int second = 0; second < 300; ++second) {
      for (uint32_t n = random() % 3; n > 0; --n, ++submitted) {
        simulation.Submit(
            {.tenant = std::string(1, static_cast<char>('a' + random() % 5)),
             .max_tokens = static_cast<int32_t>(1 + random() % 20),
             .pages = 1 + static_cast<int64_t>(random() % 20)});
      }
      simulation.Step();
      EXPECT_TRUE(simulation.running() > 0 || simulation.empty());
    }
    int rest = 0;
    for (; !simulation.empty() && rest < 20'000; ++rest) simulation.Step();
    EXPECT_TRUE(simulation.empty()) << "seed " << seed;
    EXPECT_EQ(simulation.waits().size(), submitted) << "seed " << seed;
  }
}

}  // namespace
}  // namespace h2o
