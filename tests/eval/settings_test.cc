// Lists of policies and budgets.
#include "eval/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace h2o {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(EvalSettings, EachPolicyHasEachBudget) {
  const auto settings = ParseSettings("full,h2o,sink", "5%,64");
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_THAT(*settings, ElementsAre(EvalSetting{KvPolicyName::kFull, ""},
                                     EvalSetting{KvPolicyName::kH2o, "5%"},
                                     EvalSetting{KvPolicyName::kH2o, "64"},
                                     EvalSetting{KvPolicyName::kSink, "5%"},
                                     EvalSetting{KvPolicyName::kSink, "64"}));
}

TEST(EvalSettings, WhatIsNoneIsNamed) {
  for (const auto& [policies, budgets, says] : {std::tuple{"h3o", "5%", "h3o"},
                                                {"h2o,", "5%", "\"\""},
                                                {"h2o", "5%,much", "much"},
                                                {"h2o", "", "budget"}}) {
    const absl::Status status = ParseSettings(policies, budgets).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(says));
  }
}

TEST(EvalSettings, SharesAreOfAllTokens) {
  const auto policy = [](const char* budget, int tokens) {
    return PolicyOf({KvPolicyName::kH2o, budget}, tokens).value();
  };
  EXPECT_EQ(policy("20%", 1024).budget_tokens, 204);
  EXPECT_FALSE(policy("20%", 1024).budget_percent);
  EXPECT_EQ(policy("1%", 1024).budget_tokens, 32);  // a page
  EXPECT_EQ(policy("205", 1024).budget_tokens, 205);
  EXPECT_EQ(PolicyOf({}, 1024)->name, KvPolicyName::kFull);
}

}  // namespace
}  // namespace h2o
