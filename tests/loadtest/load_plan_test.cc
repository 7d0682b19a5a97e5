// Tests what is planned: lengths, traces, rates, and a stream of requests that
// does not depend on who draws it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "loadtest/arrival_plan.h"
#include "loadtest/lengths.h"
#include "loadtest/load_spec.h"
#include "loadtest/trace_file.h"

namespace h2o {
namespace {

using ::testing::HasSubstr;

std::vector<PlannedRequest> AllOf(const LoadSpec& spec) {
  std::vector<PlannedRequest> all;
  ArrivalPlan plan(&spec);
  while (const auto request = plan.Next()) all.push_back(*request);
  return all;
}

// Mean and squared coefficient of variation of the gaps.
struct Gaps {
  double mean = 0, variation = 0;
};
Gaps GapsOf(const std::vector<PlannedRequest>& all) {
  double sum = 0, squares = 0;
  for (size_t i = 1; i < all.size(); ++i) {
    const double gap = all[i].at_seconds - all[i - 1].at_seconds;
    sum += gap;
    squares += gap * gap;
  }
  const double n = static_cast<double>(all.size() - 1);
  const double mean = sum / n;
  return {mean, squares / n / (mean * mean) - 1};
}

TEST(Lengths, AreReadAndDrawn) {
  for (const char* text : {"128", "uniform:64:256", "normal:512:100",
                           "lognormal:512:0.5", "exponential:200"}) {
    const auto law = ParseLengthLaw(text);
    ASSERT_TRUE(law.ok()) << law.status();
    EXPECT_EQ(law->ToString(), text);
    double sum = 0;
    for (int i = 0; i < 4000; ++i) {
      Draws draws(1, i, DrawFor::kPromptLength);
      const int drawn = law->Draw(&draws);
      EXPECT_GE(drawn, 1);
      sum += drawn;
    }
    const double mean[] = {128, 160, 512, 512 * std::exp(0.125), 200};
    const int i = static_cast<int>(law->kind);
    EXPECT_NEAR(sum / 4000, mean[i], 0.05 * mean[i]) << text;
  }
  for (const char* bad : {"", "0", "-3", "nan", "uniform:9:3", "uniform:1",
                          "normal:5:-1", "gauss:1:2", "1:2", "1e99"}) {
    EXPECT_THAT(ParseLengthLaw(bad).status().message(), HasSubstr("tokens"))
        << bad;
  }
  // As a leader sends them: to the last digit.
  for (const char* text :
       {"1234567", "uniform:1:1048577", "lognormal:300:0.123456789"}) {
    EXPECT_EQ(ParseLengthLaw(text)->ToString(), text);
  }
  EXPECT_TRUE(ParseLengths("512,uniform:1:9").ok());
  EXPECT_FALSE(ParseLengths("512").ok());
}

TEST(Trace, IsReadAsAzureWritesIt) {
  const auto rows = ParseTrace(
      "TIMESTAMP,ContextTokens,GeneratedTokens\n"
      "2023-11-16 23:59:59.5000000,374,44\r\n"
      "2023-11-17 00:00:01.7500000,396,109\n",
      "t.csv");
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 2);
  EXPECT_EQ((*rows)[0], (TraceRow{0, 374, 44}));
  EXPECT_NEAR((*rows)[1].at_seconds, 2.25, 1e-6);
  EXPECT_TRUE(ParseTrace("0.5,1,2\n3,4,5", "t").ok());
  EXPECT_THAT(ParseTrace("1,2,3\n0,2,3\n", "t.csv").status().message(),
              HasSubstr("t.csv:2: its time is before"));
  EXPECT_THAT(ParseTrace("1,2\n", "t.csv").status().message(),
              HasSubstr("t.csv:1: '1,2' is no row"));
  for (const char* bad : {"nan,1,2", "inf,1,2", "1,2147483647,2", "1,2,0",
                          "1,2,10000001", "1,2,99999999999"}) {
    EXPECT_THAT(ParseTrace(bad, "t.csv").status().message(),
                HasSubstr("is no row"))
        << bad;
  }
  EXPECT_FALSE(ParseTrace("", "t.csv").ok());
  EXPECT_TRUE(absl::IsNotFound(ReadTrace("/no/such/file").status()));
}

TEST(Rate, IsReadAndIntegrated) {
  const auto ramp = ParseRate("0:0,10:10,20:10");
  ASSERT_TRUE(ramp.ok());
  // 50 requests come while it rises, 100 in the ten seconds behind.
  EXPECT_NEAR(TimeOfArea(*ramp, 12.5), 5, 1e-9);
  EXPECT_NEAR(TimeOfArea(*ramp, 50), 10, 1e-9);
  EXPECT_NEAR(TimeOfArea(*ramp, 150), 20, 1e-9);
  EXPECT_NEAR(TimeOfArea(*ramp, 160), 21, 1e-9);
  EXPECT_NEAR(TimeOfArea({{0, 4}, {2, 0}}, 3), 1, 1e-9);
  EXPECT_TRUE(std::isinf(TimeOfArea({{0, 4}, {2, 0}}, 5)));
  EXPECT_NEAR(TimeOfArea({{10, 2}}, 40), 20, 1e-9);
  for (const char* bad : {"", "0", "-1", "x", "0:0", "5:1,3:2", "0:-1,1:2"}) {
    EXPECT_FALSE(ParseRate(bad).ok()) << bad;
  }
}

TEST(ArrivalPlan, HasTheGapsThatWereAskedFor) {
  LoadSpec spec{.rate = {{0, 20}}, .duration_seconds = 500, .seed = 3};
  for (const auto& [arrivals, burstiness, variation] :
       {std::tuple(ArrivalKind::kPoisson, 1.0, 1.0),
        {ArrivalKind::kGamma, 0.25, 4.0},
        {ArrivalKind::kGamma, 4.0, 0.25},
        {ArrivalKind::kConstant, 1.0, 0.0}}) {
    spec.arrivals = arrivals;
    spec.burstiness = burstiness;
    const Gaps gaps = GapsOf(AllOf(spec));
    EXPECT_NEAR(gaps.mean, 0.05, 0.003) << Name(arrivals);
    EXPECT_NEAR(gaps.variation, variation, 0.1 * variation + 1e-6)
        << Name(arrivals);
  }
}

TEST(ArrivalPlan, IsTheSameForTheSameSeed) {
  const LoadSpec spec{.rate = {{0, 50}},
                      .duration_seconds = 20,
                      .lengths = {*ParseLengthLaw("uniform:10:50"),
                                  *ParseLengthLaw("exponential:20")},
                      .prefix_share = 0.5,
                      .prefix_tokens = 8,
                      .num_prefixes = 3,
                      .tenants = {{"a", 3}, {"b", 1}},
                      .targets = {"x", "y"},
                      .seed = 7};
  const auto all = AllOf(spec);
  EXPECT_EQ(all, AllOf(spec));
  EXPECT_EQ(PromptOf(spec, all[5]), PromptOf(spec, all[5]));
  EXPECT_NE(PromptOf(spec, all[5]), PromptOf(spec, all[6]));
  LoadSpec other = spec;
  other.seed = 8;
  EXPECT_NE(all, AllOf(other));
  // A longer run begins with the shorter one.
  other = spec;
  other.duration_seconds = 40;
  auto longer = AllOf(other);
  longer.resize(all.size());
  EXPECT_EQ(all, longer);
}

TEST(ArrivalPlan, SharesOutTenantsTargetsAndPrefixes) {
  const LoadSpec spec{.rate = {{0, 100}},
                      .duration_seconds = 100,
                      .lengths = {*ParseLengthLaw("20"), *ParseLengthLaw("1")},
                      .prefix_share = 0.25,
                      .prefix_tokens = 8,
                      .num_prefixes = 2,
                      .tenants = {{"a", 3}, {"b", 1}},
                      .targets = {"x", "y"}};
  const auto all = AllOf(spec);
  double of_a = 0, with_prefix = 0;
  std::vector<int32_t> first_of[2];
  for (const PlannedRequest& request : all) {
    of_a += request.tenant == 0;
    with_prefix += request.prefix >= 0;
    EXPECT_EQ(request.target, request.index % 2);
    if (request.prefix < 0) continue;
    std::vector<int32_t> prompt = PromptOf(spec, request);
    EXPECT_EQ(prompt.size(), 20);
    prompt.resize(8);
    auto& first = first_of[request.prefix];
    if (first.empty()) first = prompt;
    EXPECT_EQ(prompt, first);
  }
  EXPECT_NE(first_of[0], first_of[1]);
  EXPECT_NEAR(of_a / static_cast<double>(all.size()), 0.75, 0.02);
  EXPECT_NEAR(with_prefix / static_cast<double>(all.size()), 0.25, 0.02);
}

TEST(ArrivalPlan, FollowsATraceAndCutsToTheContext) {
  LoadSpec spec{.arrivals = ArrivalKind::kTrace,
                .duration_seconds = 10,
                .trace = {{0, 100, 10}, {4, 50, 900}, {30, 1, 1}},
                .trace_lengths = true,
                .trace_speed = 2,
                .max_context = 500};
  const auto all = AllOf(spec);
  ASSERT_EQ(all.size(), 2);
  EXPECT_EQ(all[1].at_seconds, 2);
  EXPECT_FALSE(all[0].cut);
  EXPECT_TRUE(all[1].cut);
  EXPECT_EQ(all[1].prompt_tokens, 50);
  EXPECT_EQ(all[1].output_tokens, 450);
  spec.trace[1].prompt_tokens = 2000;
  EXPECT_EQ(AllOf(spec)[1].prompt_tokens, 499);
  EXPECT_EQ(AllOf(spec)[1].output_tokens, 1);
  spec.max_requests = 1;
  EXPECT_EQ(AllOf(spec).size(), 1);
}

TEST(LoadSpec, GoesThroughJson) {
  const LoadSpec spec{
      .arrivals = ArrivalKind::kGamma,
      .burstiness = 0.3,
      .rate = {{0, 1}, {10, 0.1}},
      .lengths = {*ParseLengthLaw("normal:9:2"), *ParseLengthLaw("7")},
      .trace = {{1.5, 2, 3}},
      .tenants = {{"a", 0.5}},
      .targets = {"h:1"},
      .seed = ~uint64_t{0}};
  const auto read = LoadSpecFromJson(ToJson(spec));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, spec);
  EXPECT_FALSE(LoadSpecFromJson("{}").ok());
  EXPECT_FALSE(LoadSpecFromJson("nonsense").ok());
}

TEST(LoadSpec, ThatCannotBePlannedIsRefused) {
  const LoadSpec good{.rate = {{0, 1}}, .trace = {}, .targets = {"h:1"}};
  EXPECT_TRUE(LoadSpecFromJson(ToJson(good)).ok());
  const auto expect_refused = [&](const auto& spoil) {
    LoadSpec bad = good;
    spoil(&bad);
    EXPECT_THAT(LoadSpecFromJson(ToJson(bad)).status().message(),
                HasSubstr("no load that can be made"));
  };
  expect_refused([](LoadSpec* s) { s->targets.clear(); });
  expect_refused([](LoadSpec* s) { s->rate.clear(); });
  expect_refused([](LoadSpec* s) { s->arrivals = ArrivalKind::kTrace; });
  expect_refused([](LoadSpec* s) { s->trace_lengths = true; });
  expect_refused([](LoadSpec* s) { s->trace = {{0, -1, 1}}; });
  expect_refused([](LoadSpec* s) { s->num_prefixes = 0; });
  expect_refused([](LoadSpec* s) { s->prefix_tokens = -1; });
  expect_refused([](LoadSpec* s) { s->burstiness = 0; });
  expect_refused([](LoadSpec* s) { s->trace_speed = 0; });
  expect_refused([](LoadSpec* s) { s->concurrency = 0; });
  expect_refused([](LoadSpec* s) { s->max_in_flight = 0; });
  expect_refused([](LoadSpec* s) { s->max_context = 1; });
}

}  // namespace
}  // namespace h2o
