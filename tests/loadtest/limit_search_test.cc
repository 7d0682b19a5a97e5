// Tests the search for the largest rate that keeps the SLO.
#include "loadtest/limit_search.h"

#include <gtest/gtest.h>

namespace h2o {
namespace {

// The number of probes; `keeps(rate, probe)` says what came.
template <typename Keeps>
int Search(LimitSearch* search, const Keeps& keeps) {
  int probes = 0;
  while (const auto rate = search->NextRate()) {
    search->Tell(keeps(*rate, probes++));
    EXPECT_LT(probes, 200);
  }
  return probes;
}

TEST(LimitSearch, FindsTheLimit) {
  for (const double limit : {0.3, 1.0, 7.7, 123.4}) {
    LimitSearch search({.repeats = 1, .precision = 0.05});
    const int probes =
        Search(&search, [&](double rate, int) { return rate <= limit; });
    ASSERT_TRUE(search.limit().has_value());
    EXPECT_LE(*search.limit(), limit);
    EXPECT_GE(*search.limit(), 0.95 * limit);
    EXPECT_GT(*search.too_much(), limit);
    EXPECT_LE(probes, 14);
  }
}

TEST(LimitSearch, TheMajorityOfRepeatsDecides) {
  LimitSearch search({.repeats = 3});
  // Every third probe lies.
  Search(&search, [](double rate, int probe) {
    return (rate <= 10) != (probe % 3 == 0);
  });
  EXPECT_NEAR(*search.limit(), 10, 0.5);
}

TEST(LimitSearch, EndsWhereNothingOrEverythingKeeps) {
  LimitSearch never({.least_rate = 0.1, .repeats = 1});
  Search(&never, [](double, int) { return false; });
  EXPECT_FALSE(never.limit().has_value());
  EXPECT_EQ(never.too_much(), 0.1);
  LimitSearch always({.most_rate = 50, .repeats = 1});
  Search(&always, [](double, int) { return true; });
  EXPECT_EQ(always.limit(), 50);
  EXPECT_FALSE(always.too_much().has_value());
}

}  // namespace
}  // namespace h2o
