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

}  // namespace
}  // namespace h2o
