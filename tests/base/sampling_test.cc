// Checks that random numbers are Philox's and depend on seed and index alone.
#include "base/sampling.h"

#include <gtest/gtest.h>

#include <set>

namespace h2o {
namespace {

// Known answers of Philox4x32-10 (the authors' kat_vectors).
TEST(CounterRandom, IsPhilox) {
  const auto zero = CounterRandom(0, 0, 0);
  EXPECT_EQ(zero[0], 0x6627e8d5u);
  EXPECT_EQ(zero[1], 0xe169c58du);
  EXPECT_EQ(zero[2], 0xbc57ac4cu);
  EXPECT_EQ(zero[3], 0x9b00dbd8u);
  const auto ones = CounterRandom(~0ull, ~0ull, ~0ull);
  EXPECT_EQ(ones[0], 0x408f276du);
  EXPECT_EQ(ones[3], 0x6d5451fdu);
}

TEST(UniformDraw, DependsOnSeedAndIndexAlone) {
  EXPECT_EQ(UniformDraw(7, 3), UniformDraw(7, 3));
  std::set<double> seen;
  double sum = 0;
  for (int seed = 0; seed < 100; ++seed) {
    for (int index = 0; index < 100; ++index) {
      const double u = UniformDraw(seed, index);
      ASSERT_GE(u, 0.0);
      ASSERT_LT(u, 1.0);
      seen.insert(u);
      sum += u;
    }
  }
  EXPECT_EQ(seen.size(), 10000u);
  EXPECT_NEAR(sum / 10000, 0.5, 0.01);
}

}  // namespace
}  // namespace h2o
