// Tests that merged events lose nothing and that an error comes last.
#include "api/event_merger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

namespace h2o {
namespace {

using ::testing::ElementsAre;

StreamEvent TokenEvent(int32_t token, const char* text) {
  StreamEvent event;
  event.tokens = {token};
  event.text = text;
  return event;
}

TEST(EventMerger, GivesWhatGatheredAsOneEvent) {
  EventMerger merger;
  EXPECT_TRUE(merger.empty());
  merger.Add(TokenEvent(5, "a"));
  EXPECT_THAT(merger.Take().tokens, ElementsAre(5));
  EXPECT_TRUE(merger.empty());

  merger.Add(TokenEvent(6, "b"));
  merger.Add(TokenEvent(7, ""));
  StreamEvent last = TokenEvent(2, "c");
  last.trace.resize(1);
  last.logits.resize(2);
  last.done = true;
  last.finish = FinishReason::kStop;
  last.usage.completion_tokens = 4;
  merger.Add(std::move(last));
  const StreamEvent merged = merger.Take();
  EXPECT_THAT(merged.tokens, ElementsAre(6, 7, 2));
  EXPECT_EQ(merged.text, "bc");
  EXPECT_EQ(merged.trace.size(), 1u);
  EXPECT_EQ(merged.logits.size(), 2u);
  EXPECT_TRUE(merged.done);
  EXPECT_EQ(merged.finish, FinishReason::kStop);
  EXPECT_EQ(merged.usage.completion_tokens, 4);
  EXPECT_TRUE(merger.empty());
}

TEST(EventMerger, AnErrorComesAloneAfterTheTokens) {
  EventMerger merger;
  merger.Add(TokenEvent(5, "a"));
  StreamEvent error;
  error.done = true;
  error.status = absl::CancelledError("left");
  merger.Add(std::move(error));
  const StreamEvent tokens = merger.Take();
  EXPECT_THAT(tokens.tokens, ElementsAre(5));
  EXPECT_FALSE(tokens.done);
  EXPECT_FALSE(merger.empty());
  const StreamEvent last = merger.Take();
  EXPECT_TRUE(last.done);
  EXPECT_EQ(last.status, absl::CancelledError("left"));
  EXPECT_TRUE(merger.empty());
}

}  // namespace
}  // namespace h2o
