// Tests that a status carries the reason of a refusal and when to ask again.
#include "api/refusal.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace h2o {
namespace {

TEST(Refusal, TravelsWithItsStatus) {
  const absl::Status full = absl::ResourceExhaustedError("full");
  EXPECT_FALSE(RefusalOf(full).has_value());
  EXPECT_FALSE(RetryAfterSeconds(full).has_value());
  const absl::Status refused = Refused(Refusal::kTenantTokens, full, 0.0123);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(refused.message(), "full");
  EXPECT_EQ(RefusalOf(refused), Refusal::kTenantTokens);
  EXPECT_EQ(RetryAfterSeconds(refused), 0.013) << "whole milliseconds, up";
  EXPECT_EQ(RetryAfterSeconds(Refused(Refusal::kQueueFull, full, 0)), 0.001);
  EXPECT_FALSE(
      RetryAfterSeconds(Refused(Refusal::kDraining, full)).has_value());
}

TEST(Refusal, EveryReasonHasANameOfItsOwn) {
  std::set<std::string> names;
  for (int i = 0; i < kRefusals; ++i) {
    names.insert(Name(static_cast<Refusal>(i)));
  }
  EXPECT_EQ(names.size(), static_cast<size_t>(kRefusals));
}

}  // namespace
}  // namespace h2o
