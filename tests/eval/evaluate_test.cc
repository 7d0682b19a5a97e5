// The demo model under several policies, on tokens at hand.
#include "eval/evaluate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "embedded/teacher_forced.h"

namespace h2o {
namespace {

std::unique_ptr<Embedded> OptDemo() {
  EmbeddedOptions options;
  options.shard.model.model = "models/opt-demo";
  options.shard.num_threads = 1;
  options.shard.kv_pool_bytes = 64 << 20;
  options.engine.max_sequences = 4;
  options.engine.max_queue = 100;
  return Embedded::Create(options, nullptr).value();
}

// Three documents of 96 tokens that repeat themselves.
TokenRows Documents() {
  TokenRows rows(3);
  for (int document = 0; document < 3; ++document) {
    for (int i = 0; i < 96; ++i) {
      rows[document].push_back(i == 0 ? 2 : 100 + (7 * i + document) % 40);
    }
  }
  return rows;
}

TEST(Evaluate, ScoresWhatTheLogitsSay) {
  const auto embedded = OptDemo();
  EvalOptions options;
  options.settings = ParseSettings("full,h2o,recent", "40").value();
  options.documents = Documents();
  options.prompt_tokens = 48;
  options.recall = {{options.documents[0], {{60, 61}, {90}}}};
  std::vector<double> progress;
  const auto results = Evaluate(options, embedded.get(), [&](double fraction) {
    progress.push_back(fraction);
  });
  ASSERT_TRUE(results.ok()) << results.status();
  ASSERT_EQ(results->size(), 3U);
  for (const EvalResult& result : *results) {
    EXPECT_EQ(result.documents.size(), 3U);
    EXPECT_EQ(SumOf(result.documents).tokens, 3 * 48);
    EXPECT_EQ(result.kv_bits, 32);
    EXPECT_EQ(result.facts_asked, 2);
  }
  // Of the same cache twice.
  const EvalResult& full = (*results)[0];
  EXPECT_EQ(SumOf(full.documents).agreed, 3 * 48);
  EXPECT_NEAR(SumOf(full.documents).kl, 0, 1e-6);
  EXPECT_FALSE(full.attention_mass_kept);
  // 3 pages of float32 over 3 of 16 bits, and their tails.
  EXPECT_NEAR(full.bytes_share, 2, 0.1);
  const EvalResult& h2o = (*results)[1];
  EXPECT_GT(SumOf(h2o.documents).kl, 1e-3);
  EXPECT_NEAR(h2o.bytes_share, full.bytes_share * 2 / 3, 1e-9);
  ASSERT_TRUE(h2o.attention_mass_kept);
  EXPECT_GT(*h2o.attention_mass_kept, 0.3);
  EXPECT_LT(*h2o.attention_mass_kept, 1);
  EXPECT_THAT(progress, ::testing::SizeIs(1 + 3 + 3));
  EXPECT_DOUBLE_EQ(progress.back(), 1);

  // The same by hand: one document, its tokens decoded under `recent`.
  double nll = 0;
  KvPolicyRequest policy{.name = KvPolicyName::kRecent, .budget_tokens = 40};
  std::vector<Request> requests = {
      TeacherForced(options.documents[1], 48, policy).value()};
  const absl::Status ran =
      embedded->Run(std::move(requests), [&](int, const StreamEvent& event) {
        ForEachLogitRow(event, embedded->config().vocab_size,
                        [&](int64_t p, absl::Span<const float> row) {
                          if (p < 47 || p == 95) return;
                          nll +=
                              LogSumExp(row) - row[options.documents[1][p + 1]];
                        });
      });
  ASSERT_TRUE(ran.ok()) << ran;
  EXPECT_NEAR((*results)[2].documents[1].nll, nll, 1e-3);
}

TEST(Evaluate, TokenByTokenSeesOnlyWhatIsKept) {
  const auto embedded = OptDemo();
  EvalOptions options;
  options.settings = ParseSettings("recent", "40").value();
  options.documents = Documents();
  options.prompt_tokens = 94;
  const auto served = Evaluate(options, embedded.get(), nullptr);
  options.token_by_token = true;
  const auto decoded = Evaluate(options, embedded.get(), nullptr);
  ASSERT_TRUE(served.ok() && decoded.ok());
  // The first scored token comes out of the prompt's prefill, which is whole.
  EXPECT_NE(SumOf((*served)[0].documents).nll,
            SumOf((*decoded)[0].documents).nll);
  EXPECT_EQ(SumOf((*decoded)[0].documents).tokens, 3 * 2);
}

}  // namespace
}  // namespace h2o
