// What Embedded tells of requests that fail.
#include "embedded/embedded.h"

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

namespace h2o {
namespace {

EmbeddedOptions OneAtATime() {
  EmbeddedOptions options;
  options.shard.model.model = "models/opt-demo";
  options.shard.num_threads = 1;
  options.shard.kv_pool_bytes = 16 << 20;
  options.engine.max_sequences = 1;
  return options;
}

std::vector<Request> Prompts(int count, int tokens) {
  Request request;
  request.tokens = {2, 11, 12};
  request.max_tokens = tokens;
  request.ignore_eos = true;
  return std::vector<Request>(count, request);
}

TEST(EmbeddedRun, IsOkIfAllRequestsAre) {
  const auto embedded = Embedded::Create(OneAtATime(), nullptr).value();
  std::vector<int> tokens(3);
  const absl::Status ran =
      embedded->Run(Prompts(3, 4), [&](int i, const StreamEvent& event) {
        tokens[i] += static_cast<int>(event.tokens.size());
      });
  EXPECT_TRUE(ran.ok()) << ran;
  EXPECT_EQ(tokens, std::vector<int>(3, 4));
}

// A bench whose ranks had died told the speed of what never ran.
TEST(EmbeddedRun, TellsThatARequestFailed) {
  EmbeddedOptions options = OneAtATime();
  options.engine.max_queue_seconds = 0.01;  // the first runs for longer
  const auto embedded = Embedded::Create(options, nullptr).value();
  absl::Status last;
  const absl::Status ran =
      embedded->Run(Prompts(2, 100), [&](int i, const StreamEvent& event) {
        if (i == 1 && event.done) last = event.status;
      });
  EXPECT_EQ(last.code(), absl::StatusCode::kResourceExhausted) << last;
  EXPECT_EQ(ran, last);
}

// Tokens of each choice of each request.
std::vector<std::vector<std::vector<int32_t>>> TokensOf(
    Embedded* embedded, const std::vector<Request>& requests) {
  std::vector<std::vector<std::vector<int32_t>>> tokens;
  for (const Request& request : requests) tokens.emplace_back(request.n);
  const absl::Status ran =
      embedded->Run(requests, [&](int i, const StreamEvent& event) {
        std::vector<int32_t>& to = tokens[i][event.choice];
        to.insert(to.end(), event.tokens.begin(), event.tokens.end());
      });
  EXPECT_TRUE(ran.ok()) << ran;
  return tokens;
}

// The choices of a request are the requests with the seeds behind theirs, bit
// by bit, and cost one prefill.  In bf16 up to 7 rows: from 8 on, other units
// of the CPU compute them (docs/cpu.md).
TEST(EmbeddedRun, ChoicesAreRequestsWithTheNextSeeds) {
  struct Setting {
    KvPolicyName policy;
    int tp;
    const char* dtype;
    int n;
    float temperature;
    int prompt;  // shorter or longer than the budget
  };
  for (const Setting& s :
       {Setting{KvPolicyName::kH2o, 1, "float32", 8, 1, 60},
        Setting{KvPolicyName::kH2o, 2, "bf16", 4, 1, 60},
        Setting{KvPolicyName::kRecent, 3, "float32", 8, 1, 10},
        Setting{KvPolicyName::kFull, 4, "bf16", 4, 1, 40},
        Setting{KvPolicyName::kSink, 2, "float32", 8, 0, 60}}) {
    SCOPED_TRACE(::testing::Message() << Name(s.policy) << ", tp " << s.tp);
    EmbeddedOptions options = OneAtATime();
    options.shard.size = s.tp;
    options.shard.model.dtype = options.shard.model.kv_dtype = s.dtype;
    options.engine.max_sequences = 16;
    const auto embedded = Embedded::Create(options, nullptr).value();
    Request request;
    for (int i = 0; i < s.prompt; ++i) request.tokens.push_back(2 + 7 * i);
    request.max_tokens = 12;
    request.ignore_eos = true;
    request.sampling.temperature = s.temperature;
    request.sampling.seed = 40;
    request.kv_policy = KvPolicyRequest{s.policy, 24};
    if (s.policy == KvPolicyName::kFull) request.kv_policy->budget_tokens = {};
    std::vector<Request> alone(s.n, request);
    for (size_t i = 0; i < alone.size(); ++i) alone[i].sampling.seed = 40 + i;
    request.n = s.n;
    const auto choices = TokensOf(embedded.get(), {request});
    const int64_t prompt_tokens = embedded->engine().counters().prompt_tokens;
    EXPECT_EQ(prompt_tokens, s.prompt);
    const auto requests = TokensOf(embedded.get(), alone);
    for (size_t i = 0; i < alone.size(); ++i) {
      EXPECT_EQ(choices[0][i], requests[i][0]) << "choice " << i;
      EXPECT_EQ(choices[0][i].size(), 12u);
    }
    EXPECT_EQ(choices[0][1] == choices[0][2], s.temperature == 0);
    EXPECT_EQ(embedded->engine().counters().slabs_held, 0);
  }
}

}  // namespace
}  // namespace h2o
