// Results as JSON lines and as a table.
#include "eval/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "eval/plot.h"

namespace h2o {
namespace {

using ::testing::HasSubstr;

EvalResult Sample() {
  EvalResult result;
  result.setting = {KvPolicyName::kH2o, "20%"};
  result.kv_bits = 16;
  result.bytes_share = 0.25;
  result.documents = {{.tokens = 4, .nll = 4, .kl = 1, .agreed = 3}};
  result.attention_mass_kept = 0.875;
  result.facts_right = 7;
  result.facts_asked = 60;
  return result;
}

TEST(EvalReport, JsonHasTheFieldsInOrder) {
  const auto line = nlohmann::ordered_json::parse(EvalJson(Sample()));
  std::vector<std::string> keys;
  for (const auto& [key, value] : line.items()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{
                      "policy", "budget", "kv_bits", "bytes_share",
                      "perplexity", "perplexity_low", "perplexity_high",
                      "agreement", "kl", "attention_mass_kept", "recall"}));
  EXPECT_EQ(line["policy"], "h2o");
  EXPECT_EQ(line["budget"], "20%");
  EXPECT_EQ(line["kv_bits"], 16);
  EXPECT_EQ(line["bytes_share"], 0.25);
  EXPECT_NEAR(line["perplexity"].get<double>(), std::exp(1.0), 1e-12);
  EXPECT_EQ(line["perplexity_low"], line["perplexity_high"]);
  EXPECT_EQ(line["agreement"], 0.75);
  EXPECT_EQ(line["kl"], 0.25);
  EXPECT_EQ(line["recall"]["right"], 7);
  EXPECT_EQ(line["recall"]["asked"], 60);
}

TEST(EvalReport, WhatIsNotThereIsNull) {
  EvalResult result = Sample();
  result.setting = {};
  result.attention_mass_kept.reset();
  result.facts_asked = 0;
  const auto line = nlohmann::json::parse(EvalJson(result));
  EXPECT_EQ(line["policy"], "full");
  EXPECT_TRUE(line["budget"].is_null());
  EXPECT_TRUE(line["attention_mass_kept"].is_null());
  EXPECT_TRUE(line["recall"].is_null());
}

TEST(EvalReport, TheTableHasALineForEach) {
  EvalResult full = Sample();
  full.setting = {};
  full.facts_asked = 0;
  const std::string table = EvalTable({full, Sample()});
  EXPECT_THAT(table, HasSubstr("full         all"));
  EXPECT_THAT(table, HasSubstr("h2o          20%"));
  EXPECT_THAT(table, HasSubstr("7/60"));
  EXPECT_THAT(table, HasSubstr("2.718"));
}

TEST(EvalPlot, HasALineForEachPolicy) {
  EvalResult full = Sample(), more = Sample();
  full.setting = {};
  full.bytes_share = 1;
  more.setting.budget = "40%";
  more.bytes_share = 0.5;
  more.documents[0].nll = 3;
  const std::string plot = EvalPlot({full, Sample(), more});
  EXPECT_THAT(plot, ::testing::StartsWith("<svg "));
  EXPECT_THAT(plot, ::testing::EndsWith("</svg>\n"));
  EXPECT_THAT(plot, HasSubstr(">full</text>"));
  EXPECT_THAT(plot, HasSubstr(">h2o</text>"));
  EXPECT_THAT(plot, HasSubstr(">100%</text>"));
  // A quarter and a half of the way from left to right.
  EXPECT_THAT(plot, HasSubstr("cx=\"192.5\""));
  EXPECT_THAT(plot, HasSubstr("cx=\"315.0\""));
}

}  // namespace
}  // namespace h2o
