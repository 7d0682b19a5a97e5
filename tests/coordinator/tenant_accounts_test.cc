// Tests the accounts of tenants: costs, limits, allowances, the measured rate.
#include "coordinator/tenant_accounts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "coordinator/start_rate.h"

namespace h2o {
namespace {

using ::testing::HasSubstr;

TenantRow Row(const Tenant& row) { return std::make_shared<const Tenant>(row); }

TEST(TenantAccounts, TheNewestRowIsInForce) {
  TenantAccounts tenants;
  TenantAccount* const account = tenants.Of(Row({.name = "a", .weight = 2}), 0);
  EXPECT_EQ(account->weight(), 2);
  EXPECT_EQ(tenants.Of(Row({.name = "a", .weight = 5}), 1), account);
  EXPECT_EQ(account->weight(), 5);
  EXPECT_EQ(tenants.Of(nullptr, 1)->row->name, "default");
  EXPECT_EQ(tenants.all().size(), 2u);
}

TEST(TenantAccounts, ARequestCostsItsTokensAndHalfOfAllIsForPages) {
  TenantAccounts tenants;
  TenantAccount* const a = tenants.Of(Row({.name = "a"}), 0);
  TenantAccount* const b = tenants.Of(Row({.name = "b", .weight = 2}), 0);
  const TenantCharge charge = {.most_tokens = 100, .pages = 5};
  tenants.Start(a, charge, 0);
  tenants.Start(b, charge, 0);
  EXPECT_EQ(tenants.Cost(*a, 0), 100) << "the most that it may take";
  EXPECT_EQ(tenants.Cost(*b, 0), 50) << "of twice the weight";
  // 10 pages for 10 s are 100 page-seconds, and all tokens are 40.
  tenants.End(a, charge, 20, 10);
  EXPECT_EQ(tenants.Cost(*a, 10), 20) << "page-seconds have no price yet";
  tenants.End(b, charge, 20, 10);
  tenants.Start(a, charge, 10);
  tenants.End(a, charge, 20, 20);  // 50 page-seconds more
  EXPECT_NEAR(tenants.Cost(*a, 20), 40 + 50 * 40.0 / 100, 1);
}

TEST(TenantAccounts, WhoComesBackIsLiftedAndNobodyIsLowered) {
  TenantAccounts tenants;
  TenantAccount* const idle = tenants.Of(Row({.name = "idle"}), 0);
  TenantAccount* const busy = tenants.Of(Row({.name = "busy"}), 0);
  TenantAccount* const busier = tenants.Of(Row({.name = "busier"}), 0);
  const auto use = [&](TenantAccount* account, int64_t tokens) {
    tenants.Start(account, {.most_tokens = tokens}, 0);
    tenants.End(account, {.most_tokens = tokens}, tokens, 0);
  };
  use(busier, 300);
  use(busy, 100);
  TenantAccount* const others[] = {busy, busier};
  tenants.Lift(idle, others, 1);
  EXPECT_EQ(tenants.Cost(*idle, 1), 100);
  TenantAccount* const other[] = {busy};
  tenants.Lift(busier, other, 1);
  EXPECT_EQ(tenants.Cost(*busier, 1), 300);
  // Nobody waits: as far as the last who started.
  TenantAccount* const late = tenants.Of(Row({.name = "late"}), 1);
  tenants.Lift(late, {}, 1);
  EXPECT_EQ(tenants.Cost(*late, 1), 100);
}

TEST(TenantAccounts, LimitsOfPlacement) {
  TenantAccounts tenants;
  tenants.SetPoolPages(100);
  TenantAccount* const a =
      tenants.Of(Row({.name = "a", .max_running = 2, .max_kv_share = 0.5}), 0);
  tenants.Start(a, {.most_tokens = 1, .pages = 30}, 0);
  EXPECT_TRUE(tenants.MayRun(*a));
  EXPECT_TRUE(tenants.MayHold(*a, 20));
  EXPECT_FALSE(tenants.MayHold(*a, 21));
  EXPECT_TRUE(tenants.CanEverRun(*a, 1, 50).ok());
  EXPECT_THAT(std::string(tenants.CanEverRun(*a, 1, 51).message()),
              HasSubstr("may hold 50, 0.5 of 100"));
  tenants.Start(a, {.most_tokens = 1}, 0);
  EXPECT_FALSE(tenants.MayRun(*a));
  EXPECT_TRUE(tenants.MayHold(*tenants.Of(nullptr, 0), 1000)) << "no limit";
}

TEST(TenantAccounts, TokensPerMinute) {
  TenantAccounts tenants;
  TenantAccount* const a =
      tenants.Of(Row({.name = "a", .tokens_per_minute = 600}), 0);
  EXPECT_FALSE(tenants.MissingAllowance(a, 600, 0).has_value());
  tenants.Take(a, 600);
  EXPECT_EQ(tenants.MissingAllowance(a, 50, 0), 5);
  EXPECT_EQ(tenants.MissingAllowance(a, 50, 4), 1);
  EXPECT_FALSE(tenants.MissingAllowance(a, 50, 5).has_value());
  tenants.GiveBack(a, 550);  // it took but 50
  EXPECT_FALSE(tenants.MissingAllowance(a, 600, 5).has_value());
  // More than a minute's: when the bucket is full, and then nothing for long.
  tenants.Take(a, 1200);
  EXPECT_EQ(tenants.MissingAllowance(a, 600, 5), 120);
  // Another limit begins with a full bucket.
  EXPECT_EQ(tenants.Of(Row({.name = "a", .tokens_per_minute = 60}), 6), a);
  EXPECT_FALSE(tenants.MissingAllowance(a, 60, 6).has_value());
}

TEST(TenantAccounts, TheRateFollowsFromHowLongRequestsRun) {
  TenantAccounts tenants;
  TenantAccount* const a = tenants.Of(nullptr, 0);
  EXPECT_FALSE(tenants.TokensPerSecond().has_value());
  tenants.CountRun(2);
  tenants.Start(a, {.most_tokens = 100}, 0);
  EXPECT_EQ(tenants.TokensPerSecond(), 50);
}

TEST(StartRate, CountsTheTimeInWhichRequestsWait) {
  StartRate rate;
  double now = 0;
  for (int i = 0; i < 7; ++i) {
    rate.Pass(now += 1, true);
    rate.Started(10);
  }
  EXPECT_FALSE(rate.TokensPerSecond().has_value()) << "too few";
  rate.Pass(now += 1, true);
  rate.Started(10);
  EXPECT_NEAR(*rate.TokensPerSecond(), 10, 1);
  rate.Pass(now += 1000, false);
  EXPECT_NEAR(*rate.TokensPerSecond(), 10, 1) << "nobody waited";
  for (int i = 0; i < 200; ++i) {
    rate.Pass(now += 1, true);
    rate.Started(40);
  }
  EXPECT_NEAR(*rate.TokensPerSecond(), 40, 1);
}

}  // namespace
}  // namespace h2o
