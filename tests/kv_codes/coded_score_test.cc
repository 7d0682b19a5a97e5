// Scores of 8 bits mean what they say and are right on average.
#include "kv_codes/coded_score.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/kv_codes/golden.h"

namespace h2o {
namespace {

TEST(CodedScore, IsNumpys) {
  const Golden golden("scores");
  const auto values = golden.Get<float>("values");
  for (int score = 0; score < 256; ++score) {
    EXPECT_EQ(ScoreValue(static_cast<uint8_t>(score)), values[score]) << score;
  }
  const auto who = golden.Get<uint64_t>("who");
  const auto random = golden.Get<uint32_t>("random");
  const auto before = golden.Get<uint8_t>("before");
  const auto added = golden.Get<float>("added");
  const auto after = golden.Get<uint8_t>("after");
  for (int i = 0; i < static_cast<int>(before.size()); ++i) {
    const auto row = RowOf(who, i, 5);
    const uint32_t key = ScoreKey(row[0], row[1], row[2], row[3]);
    EXPECT_EQ(ScoreRandom(key, row[4]), random[i]) << i;
    EXPECT_EQ(AddToScore(before[i], added[i], random[i]), after[i])
        << int{before[i]} << " + " << added[i];
  }
}

TEST(CodedScore, WhatItMeansBecomesItself) {
  for (int score = 0; score < 256; ++score) {
    const float value = ScoreValue(static_cast<uint8_t>(score));
    for (const uint32_t random : {0U, 1U << 31, ~0U}) {
      EXPECT_EQ(RoundScore(value, random), score);
    }
    EXPECT_FLOAT_EQ(value, std::pow(2.0F, (score - 160) / 8.0F));
  }
}

TEST(CodedScore, KeepsToItsEnds) {
  EXPECT_EQ(RoundScore(0, ~0U), 0);
  EXPECT_EQ(RoundScore(1e-7F, 0), 0);
  EXPECT_EQ(RoundScore(1e9F, 0), 255);
  EXPECT_EQ(RoundScore(std::numeric_limits<float>::infinity(), 0), 255);
  EXPECT_EQ(AddToScore(255, 1, 0), 255);
}

TEST(CodedScore, GoesUpByTheDistance) {
  // Between 1 (160) and 2^(1/8) (161), a quarter of the way.
  const float sum = 1 + (ScoreValue(161) - 1) / 4;
  EXPECT_EQ(RoundScore(sum, 0), 161);
  EXPECT_EQ(RoundScore(sum, (1U << 30) - 10000), 161);
  EXPECT_EQ(RoundScore(sum, (1U << 30) + 10000), 160);
  EXPECT_EQ(RoundScore(sum, ~0U), 160);
}

TEST(CodedScore, IsRightOnAverage) {
  // 400 tokens receive 0.003 in each of 1,000 steps.
  double sum = 0;
  constexpr int kTokens = 400, kSteps = 1000;
  std::vector<uint8_t> scores(kTokens);
  for (uint32_t step = 0; step < kSteps; ++step) {
    const uint32_t key = ScoreKey(77, 3, 5, step);
    for (uint32_t token = 0; token < kTokens; ++token) {
      scores[token] =
          AddToScore(scores[token], 0.003F, ScoreRandom(key, token));
    }
  }
  for (const uint8_t score : scores) sum += ScoreValue(score);
  EXPECT_NEAR(sum / kTokens, 3, 0.05);
}

TEST(CodedScore, RandomNumbersAreUniform) {
  std::vector<int> counts(16);
  for (uint32_t step = 0; step < 100; ++step) {
    const uint32_t key = ScoreKey(1, 0, 0, step);
    for (uint32_t position = 0; position < 160; ++position) {
      ++counts[ScoreRandom(key, position) >> 28];
    }
  }
  for (const int count : counts) EXPECT_NEAR(count, 1000, 150);
}

}  // namespace
}  // namespace h2o
