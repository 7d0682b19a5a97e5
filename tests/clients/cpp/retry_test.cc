// When a call that failed is made again.
#include "clients/cpp/retry.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>

namespace h2o {
namespace {

constexpr RetryOptions kDefaults;

TEST(Retry, WaitsLongerEachTimeForAServerThatIsAway) {
  Retry retry({}, 1);
  const absl::Status away = absl::UnavailableError("no connection");
  double now = 100, expected = kDefaults.first_pause_seconds;
  for (int i = 0; i < kDefaults.unavailable_attempts; ++i) {
    const std::optional<double> wait = retry.After(away, now, 0);
    ASSERT_TRUE(wait.has_value()) << i;
    EXPECT_GE(*wait, 0.75 * expected);
    EXPECT_LE(*wait, 1.25 * expected);
    now += *wait;
    expected = std::min(2 * expected, kDefaults.longest_pause_seconds);
  }
  EXPECT_FALSE(retry.After(away, now, 0).has_value());
  // Attempts that take long are few.
  Retry slow({}, 1);
  EXPECT_TRUE(slow.After(away, 100, 0).has_value());
  EXPECT_FALSE(
      slow.After(away, 101 + kDefaults.unavailable_seconds, 0).has_value());
}

TEST(Retry, WaitsForABusyServerWhileItAnswersSomebody) {
  Retry retry({}, 1);
  const absl::Status busy = absl::ResourceExhaustedError("the queue is full");
  EXPECT_TRUE(retry.After(busy, 100, 0).has_value());
  EXPECT_TRUE(retry.After(busy, 100 + kDefaults.busy_seconds, 0).has_value());
  EXPECT_FALSE(retry.After(busy, 101 + kDefaults.busy_seconds, 0).has_value());
  EXPECT_TRUE(retry.After(busy, 1000, 950).has_value());
}

TEST(Retry, WaitsAsLongAsTheServerSays) {
  const absl::Status busy = absl::ResourceExhaustedError("the queue is full");
  const double wait = *Retry({}, 1).After(busy, 100, 0, 7.5);
  EXPECT_GE(wait, 7.5);
  EXPECT_LE(wait, 1.25 * 7.5);
  EXPECT_NE(wait, *Retry({}, 2).After(busy, 100, 0, 7.5)) << "not all at once";
  EXPECT_LE(*Retry({}, 1).After(busy, 100, 0, 1e9),
            1.25 * Retry::kMostToldSeconds);
}

TEST(Retry, OtherFailuresStand) {
  for (const absl::Status& status :
       {absl::InvalidArgumentError("x"), absl::InternalError("x"),
        absl::DeadlineExceededError("x"), absl::CancelledError("x"),
        absl::ResourceExhaustedError(
            "Received message larger than max (5 vs. 4)")}) {
    EXPECT_FALSE(Retry({}, 1).After(status, 1, 0).has_value())
        << status.ToString();
  }
}

TEST(Retry, BeginsAnewWhenSomethingHasCome) {
  Retry retry({}, 1);
  const absl::Status away = absl::UnavailableError("no connection");
  for (int i = 0; i < 3 * kDefaults.unavailable_attempts; ++i) {
    const std::optional<double> wait = retry.After(away, 100.0 * i, 0);
    ASSERT_TRUE(wait.has_value()) << i;
    EXPECT_LE(*wait, 1.25 * kDefaults.first_pause_seconds);
    retry.Restart();
  }
}

TEST(Retry, IsTurnedOff) {
  RetryOptions never;
  never.enabled = false;
  EXPECT_FALSE(
      Retry(never, 1).After(absl::UnavailableError("x"), 1, 0).has_value());
}

}  // namespace
}  // namespace h2o
