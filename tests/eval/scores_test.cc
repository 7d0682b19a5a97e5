// Scores of made-up logits, and the interval of a perplexity.
#include "eval/scores.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace h2o {
namespace {

TEST(DocumentScores, AreThoseOfTheDistributions) {
  // Probabilities 1/2, 1/4, 1/4 with the full cache; 1/4, 1/2, 1/4 without.
  const float one = std::log(1.0F), two = std::log(2.0F);
  const std::vector<float> full = {two, one, one}, other = {one, two, one};
  DocumentScores scores;
  scores.Add(full, other, 1);
  EXPECT_EQ(scores.tokens, 1);
  EXPECT_NEAR(scores.nll, std::log(2), 1e-6);
  // 1/2 log 2 + 1/4 log 1/2
  EXPECT_NEAR(scores.kl, std::log(2) / 4, 1e-6);
  EXPECT_EQ(scores.agreed, 0);
  scores.Add(full, full, 2);
  EXPECT_EQ(scores.tokens, 2);
  EXPECT_NEAR(scores.nll, 3 * std::log(2), 1e-6);
  EXPECT_NEAR(scores.kl, std::log(2) / 4, 1e-6);
  EXPECT_EQ(scores.agreed, 1);
}

TEST(DocumentScores, ATokenThatIsImpossibleDivergesByNothing) {
  const float never = -std::numeric_limits<float>::infinity();
  const std::vector<float> full = {0, never}, other = {0, never};
  DocumentScores scores;
  scores.Add(full, other, 0);
  EXPECT_EQ(scores.nll, 0);
  EXPECT_EQ(scores.kl, 0);
}

TEST(LikeliestToken, IsTheLowestOfEqualOnes) {
  EXPECT_EQ(LikeliestToken(std::vector<float>{1, 3, 3, 2}), 1);
}

TEST(Perplexity, IsOverTheTokensOfAllDocuments) {
  const std::vector<DocumentScores> documents = {{.tokens = 1, .nll = 0},
                                                 {.tokens = 3, .nll = 4}};
  EXPECT_NEAR(Perplexity(documents), std::exp(1.0), 1e-12);
}

TEST(PerplexityInterval, HoldsThePerplexityAndIsRepeatable) {
  std::vector<DocumentScores> documents;
  for (int i = 0; i < 20; ++i) {
    documents.push_back({.tokens = 100, .nll = 300.0 + 5 * (i % 5)});
  }
  const Interval interval = PerplexityInterval(documents);
  const double perplexity = Perplexity(documents);
  EXPECT_LT(interval.low, perplexity);
  EXPECT_GT(interval.high, perplexity);
  EXPECT_EQ(PerplexityInterval(documents).low, interval.low);
  // The mean of 20 has a standard error of sqrt(50 / 20) / 100.
  const double error = std::sqrt(50.0 / 20) / 100;
  EXPECT_NEAR(std::log(interval.high / perplexity), 1.96 * error, 0.3 * error);
  const Interval one = PerplexityInterval({documents.data(), 1});
  EXPECT_EQ(one.low, one.high);
}

}  // namespace
}  // namespace h2o
