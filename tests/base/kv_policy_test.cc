// Checks how requests become slots, and the H2O rule on small tables.
#include "base/kv_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <vector>

namespace h2o {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

KvPolicyRequest Ask(KvPolicyName name, const std::string& budget = "") {
  KvPolicyRequest request;
  request.name = name;
  if (!budget.empty()) {
    EXPECT_TRUE(ParseKvBudget(budget, &request).ok());
  }
  return request;
}

KvSlots Resolved(const KvPolicyRequest& request, int prompt, int max_tokens,
                 int cap = 0) {
  const auto policy = ResolveKvPolicy(request, prompt, max_tokens, cap);
  EXPECT_TRUE(policy.ok()) << policy.status();
  return policy.ok() ? policy->slots.at(0) : KvSlots{};
}

TEST(KvPolicy, NamedPoliciesAreValues) {
  EXPECT_EQ(SlotsFor(KvPolicyName::kH2o, 40),
            (KvSlots{0, 20, 20, 20, ScoreRule::kSum}));
  EXPECT_EQ(SlotsFor(KvPolicyName::kH2o, 41),
            (KvSlots{0, 20, 21, 21, ScoreRule::kSum}));
  EXPECT_EQ(SlotsFor(KvPolicyName::kH2o, 1),
            (KvSlots{0, 0, 1, 1, ScoreRule::kSum}));
  EXPECT_EQ(SlotsFor(KvPolicyName::kSink, 40),
            (KvSlots{4, 0, 36, 36, ScoreRule::kNone}));
  EXPECT_EQ(SlotsFor(KvPolicyName::kSink, 3),
            (KvSlots{2, 0, 1, 1, ScoreRule::kNone}));
  EXPECT_EQ(SlotsFor(KvPolicyName::kRecent, 40),
            (KvSlots{0, 0, 40, 40, ScoreRule::kNone}));
}

TEST(KvPolicy, FullKeepsEverything) {
  EXPECT_EQ(Resolved(Ask(KvPolicyName::kFull), 100, 29).Capacity(), 128);
}

TEST(KvPolicy, SharesAreExact) {
  const KvPolicyName h2o = KvPolicyName::kH2o;
  EXPECT_EQ(Resolved(Ask(h2o, "20%"), 1000, 8).Capacity(), 200);
  EXPECT_EQ(Resolved(Ask(h2o, "20%"), 1004, 8).Capacity(), 200);
  // 0.29 * 100 is 28.999.. in doubles.
  EXPECT_EQ(Resolved(Ask(h2o, "29%"), 200, 8).Capacity(), 58);
  EXPECT_EQ(Resolved(Ask(h2o, "14.5%"), 2000, 8).Capacity(), 290);
  EXPECT_EQ(Resolved(Ask(h2o, "33.3333%"), 1000, 8).Capacity(), 333);
  EXPECT_EQ(Resolved(Ask(h2o, "100%"), 77, 8).Capacity(), 77);
  // At least the page that is paid for anyway.
  EXPECT_EQ(Resolved(Ask(h2o, "20%"), 10, 8).Capacity(), 32);
  // Without a budget: 20 %.
  EXPECT_EQ(Resolved(Ask(h2o), 1000, 8).Capacity(), 200);
  EXPECT_EQ(Resolved(Ask(KvPolicyName::kSink), 1000, 8).Capacity(), 200);
  EXPECT_EQ(Resolved(Ask(KvPolicyName::kRecent), 1000, 8).Capacity(), 200);
}

TEST(KvPolicy, HeavyAndRecent) {
  KvPolicyRequest request = Ask(KvPolicyName::kH2o);
  request.heavy = 0;
  request.recent = 7;
  EXPECT_EQ(Resolved(request, 100, 8), (KvSlots{0, 0, 7, 7, ScoreRule::kSum}));
  request.budget_tokens = 8;
  EXPECT_THAT(ValidateKvPolicyRequest(request).message(), HasSubstr("8"));
  request.heavy = 1;
  EXPECT_EQ(Resolved(request, 100, 8).Capacity(), 8);
  request.recent.reset();
  EXPECT_EQ(Resolved(request, 100, 8), (KvSlots{0, 1, 7, 7, ScoreRule::kSum}));
  request.heavy = 9;
  EXPECT_FALSE(ResolveKvPolicy(request, 100, 8, 0).ok());
}

TEST(KvPolicy, FlexGenPrefill) {
  KvPolicyRequest request = Ask(KvPolicyName::kH2o, "41");
  request.flexgen_prefill = true;
  EXPECT_EQ(Resolved(request, 100, 8),
            (KvSlots{0, 20, 21, 20, ScoreRule::kSum}));
  request.budget_tokens = 40;
  EXPECT_THAT(ValidateKvPolicyRequest(request).message(), HasSubstr("odd"));
  request.budget_tokens = 1;
  EXPECT_FALSE(ValidateKvPolicyRequest(request).ok());
}

TEST(KvPolicy, RefusesWhatCannotBe) {
  KvPolicyRequest request;
  for (const char* text : {"0", "-1", "0%", "-5%", "101%", "nan%", "inf%", "",
                           "%", "12x", "1.5", "99999999999"}) {
    const absl::Status status = ParseKvBudget(text, &request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(status.message(), HasSubstr(text));
  }
  const auto error = [&](const char* text) {
    return std::string(ParseKvBudget(text, &request).message());
  };
  EXPECT_THAT(error("0.2"), HasSubstr("did you mean 20%?"));
  EXPECT_THAT(error(".125"), HasSubstr("did you mean 12.5%?"));
  for (const char* text : {"0", "1.5", "-0.2", "0.0000001", "nan", "0.2x"}) {
    EXPECT_THAT(error(text), Not(HasSubstr("did you mean"))) << text;
  }
  EXPECT_FALSE(ValidateKvPolicyRequest(Ask(KvPolicyName::kFull, "40")).ok());
  KvPolicyRequest sink = Ask(KvPolicyName::kSink, "40");
  sink.heavy = 3;
  EXPECT_THAT(ValidateKvPolicyRequest(sink).message(), HasSubstr("sink"));
  KvPolicyRequest alone = Ask(KvPolicyName::kH2o);
  alone.heavy = 3;
  EXPECT_FALSE(ValidateKvPolicyRequest(alone).ok());
}

TEST(KvPolicy, TheCapHoldsForFullToo) {
  EXPECT_FALSE(ResolveKvPolicy(Ask(KvPolicyName::kFull), 100, 29, 127).ok());
  EXPECT_TRUE(ResolveKvPolicy(Ask(KvPolicyName::kFull), 100, 29, 128).ok());
  const auto over = ResolveKvPolicy(Ask(KvPolicyName::kH2o, "129"), 9, 9, 128);
  EXPECT_THAT(over.status().message(), HasSubstr("129"));
  EXPECT_THAT(over.status().message(), HasSubstr("128"));
}

TEST(ChooseVictim, SmallestScoreOutsideWindowAndSinks) {
  const KvSlots slots{1, 2, 2, 2, ScoreRule::kSum};
  const std::vector<uint16_t> positions = {0, 9, 3, 5, 8};
  // Token 10 is the newest, so 9 and 10 are recent; 0 is a sink.
  EXPECT_EQ(ChooseVictim(slots, positions, {0, 0, 3, 2, 1}, 10), 4);
  EXPECT_EQ(ChooseVictim(slots, positions, {0, 0, 1, 2, 3}, 10), 2);
  // Equal scores: the older position stays.
  EXPECT_EQ(ChooseVictim(slots, positions, {0, 0, 1, 1, 1}, 10), 4);
}

TEST(ChooseVictim, WithoutHeavySlotsTheOldestGoes) {
  const KvSlots slots{1, 0, 3, 3, ScoreRule::kNone};
  EXPECT_EQ(ChooseVictim(slots, {0, 9, 8, 7}, {0, 0, 0, 0}, 10), 3);
}

TEST(SelectKept, HeaviestThenRecent) {
  const KvSlots slots{0, 2, 2, 2, ScoreRule::kSum};
  EXPECT_THAT(SelectKept(slots, {1, 5, 2, 4, 0, 0}), ElementsAre(1, 3, 4, 5));
  EXPECT_THAT(SelectKept(slots, {1, 1, 1, 1, 0, 0}), ElementsAre(0, 1, 4, 5));
  EXPECT_THAT(SelectKept(slots, {1, 5, 2}), ElementsAre(0, 1, 2));
  const KvSlots sinks{2, 1, 1, 1, ScoreRule::kSum};
  EXPECT_THAT(SelectKept(sinks, {0, 0, 2, 4, 0, 0}), ElementsAre(0, 1, 3, 5));
  // FlexGen: K = 2 heavy of all but the last K - 1, then the last K - 1.
  const KvSlots flexgen{0, 1, 2, 1, ScoreRule::kSum};
  EXPECT_THAT(SelectKept(flexgen, {1, 5, 2, 4, 3, 0}), ElementsAre(1, 3, 5));
}

// The rule, played over random scores: never more than C, sinks and recents
// always there, nobody returns.
// A broken model's scores, NaN anywhere among the candidates, are put in an
// order: as many tokens are kept as ever, in their order.
TEST(SelectKept, ScoresThatAreNaNCountAsTheGreatest) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> scores(100, 1.0f);
  scores[10] = scores[50] = kNaN;
  const KvSlots slots = SlotsFor(KvPolicyName::kH2o, 20);
  std::vector<int32_t> kept = SelectKept(slots, scores);
  EXPECT_EQ(kept.size(), 20u);
  EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end()));
  EXPECT_TRUE(std::binary_search(kept.begin(), kept.end(), 10));
  EXPECT_TRUE(std::binary_search(kept.begin(), kept.end(), 50));
  for (size_t i = 0; i < scores.size(); i += 3) scores[i] = kNaN;
  EXPECT_EQ(SelectKept(slots, scores).size(), 20u);
  EXPECT_EQ(SelectKept(slots, std::vector<float>(100, kNaN)).size(), 20u);
}

TEST(KvPolicy, InvariantsOverRandomPlay) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    const KvSlots slots{static_cast<int>(random() % 3),
                        static_cast<int>(random() % 5),
                        1 + static_cast<int>(random() % 5), 1, ScoreRule::kSum};
    std::vector<uint16_t> positions;
    std::vector<float> scores;
    for (int t = 0; t < 60; ++t) {
      for (float& s : scores) s += static_cast<float>(random() % 4);
      if (static_cast<int>(positions.size()) < slots.Capacity()) {
        positions.push_back(t);
        scores.push_back(0);
      } else {
        const int victim = ChooseVictim(slots, positions, scores, t);
        positions[victim] = t;
        scores[victim] = 0;
      }
      for (int p = std::max(0, t - slots.recent + 1); p <= t; ++p) {
        ASSERT_THAT(positions, ::testing::Contains(p)) << t;
      }
      for (int p = 0; p < std::min(slots.sinks, t + 1); ++p) {
        ASSERT_THAT(positions, ::testing::Contains(p)) << t;
      }
    }
  }
}

}  // namespace
}  // namespace h2o
