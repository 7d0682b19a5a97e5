// What two steps answered, but for how long they took.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>

#include "model/step.h"

namespace h2o {

inline void ExpectSameAnswers(const StepResult& a, const StepResult& b) {
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.checksum, b.checksum);
  ASSERT_EQ(a.tokens.size(), b.tokens.size());
  for (size_t i = 0; i < a.tokens.size(); ++i) {
    EXPECT_EQ(a.tokens[i].sequence_id, b.tokens[i].sequence_id);
    EXPECT_EQ(a.tokens[i].token, b.tokens[i].token);
    EXPECT_EQ(a.tokens[i].finish, b.tokens[i].finish);
  }
  ASSERT_EQ(a.trace.size(), b.trace.size());
  for (size_t i = 0; i < a.trace.size(); ++i) {
    EXPECT_EQ(a.trace[i].sequence_id, b.trace[i].sequence_id);
    EXPECT_EQ(a.trace[i].layer, b.trace[i].layer);
    EXPECT_EQ(a.trace[i].head, b.trace[i].head);
    EXPECT_EQ(a.trace[i].pos, b.trace[i].pos);
    EXPECT_EQ(a.trace[i].evicted, b.trace[i].evicted);
    EXPECT_EQ(a.trace[i].kept, b.trace[i].kept);
  }
  ASSERT_EQ(a.logits.size(), b.logits.size());
  for (size_t i = 0; i < a.logits.size(); ++i) {
    EXPECT_EQ(a.logits[i].sequence_id, b.logits[i].sequence_id);
    EXPECT_EQ(a.logits[i].first_position, b.logits[i].first_position);
    EXPECT_EQ(a.logits[i].rows, b.logits[i].rows);
  }
}

}  // namespace h2o
