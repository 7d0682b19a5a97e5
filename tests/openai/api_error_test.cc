// Tests which status of HTTP each error has, and what it tells clients to do.
#include "openai/api_error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "api/refusal.h"
#include "base/kv_policy.h"

namespace h2o {
namespace {

using ::testing::Contains;
using ::testing::IsEmpty;
using ::testing::Pair;

TEST(ApiError, AFullServerIsBusyAndATenantOverItsLimitSlowsDown) {
  const absl::Status full =
      Refused(Refusal::kQueueFull, absl::ResourceExhaustedError("full"), 1.234);
  const ApiError busy = ErrorOf(full);
  EXPECT_EQ(busy.status, 503);
  EXPECT_EQ(busy.code, "server_is_overloaded");
  EXPECT_THAT(HeadersOf(busy), Contains(Pair("Retry-After", "2")));
  EXPECT_THAT(HeadersOf(busy), Contains(Pair("retry-after-ms", "1234")));
  EXPECT_EQ(ErrorOf(full, 429).status, 429);
  const ApiError slow = ErrorOf(Refused(
      Refusal::kTenantTokens, absl::ResourceExhaustedError("used up"), 9));
  EXPECT_EQ(slow.status, 429);
  EXPECT_EQ(slow.code, "slow_down");
}

TEST(ApiError, WhatNeverFitsIsTheRequestsFault) {
  const ApiError error =
      ErrorOf(NeverFitting(absl::InvalidArgumentError("too long")));
  EXPECT_EQ(error.status, 400);
  EXPECT_EQ(error.code, "context_length_exceeded");
  EXPECT_THAT(HeadersOf(error), IsEmpty());
}

TEST(ApiError, TheFieldIsReadFromTheMessageOfACheck) {
  EXPECT_EQ(
      ErrorOf(absl::InvalidArgumentError("top_p is 2; it must be ..")).param,
      "top_p");
  EXPECT_EQ(ErrorOf(absl::InvalidArgumentError("something else")).param, "");
  const std::pair<KvPolicyRequest, const char*> policies[] = {
      {{.budget_tokens = 3}, "kv_budget"},
      {{.name = KvPolicyName::kH2o, .budget_tokens = 0}, "kv_budget"},
      {{.heavy = 3}, "kv_heavy"},
      {{.name = KvPolicyName::kH2o, .recent = 0}, "kv_recent"}};
  for (const auto& [request, param] : policies) {
    const absl::Status status = ValidateKvPolicyRequest(request);
    EXPECT_EQ(ErrorOf(status).param, param) << status;
  }
}

TEST(ApiError, OtherStatuses) {
  EXPECT_EQ(ErrorOf(absl::UnauthenticatedError("")).status, 401);
  EXPECT_EQ(ErrorOf(absl::PermissionDeniedError("")).status, 403);
  EXPECT_EQ(ErrorOf(absl::DeadlineExceededError("")).status, 504);
  EXPECT_EQ(ErrorOf(absl::CancelledError("")).status, 499);
  const ApiError none = ErrorOf(absl::UnavailableError("no group"));
  EXPECT_EQ(none.status, 503);
  EXPECT_FALSE(none.closes);
  EXPECT_THAT(HeadersOf(none), Contains(Pair("Retry-After", "1")));
  EXPECT_TRUE(
      ErrorOf(Refused(Refusal::kDraining, absl::UnavailableError("drains")))
          .closes);
  const ApiError quarantined = ErrorOf(absl::InternalError("quarantined"));
  EXPECT_EQ(quarantined.status, 500);
  EXPECT_THAT(HeadersOf(quarantined),
              Contains(Pair("x-should-retry", "false")));
}

TEST(ApiError, TheBodyHasAllFourKeys) {
  EXPECT_EQ(ErrorJson({.message = "a \"b\"", .param = "n", .code = "c"}),
            R"({"error":{"message":"a \"b\"","type":"invalid_request_error",)"
            R"("param":"n","code":"c"}})");
  EXPECT_EQ(ErrorJson({.message = "m"}),
            R"({"error":{"message":"m","type":"invalid_request_error",)"
            R"("param":null,"code":null}})");
}

TEST(ApiError, AClientReadsTheStatusThatWasWritten) {
  for (const absl::Status& status :
       {absl::InvalidArgumentError("a"), absl::UnauthenticatedError("b"),
        absl::PermissionDeniedError("c"), absl::ResourceExhaustedError("d"),
        absl::UnavailableError("e"), absl::DeadlineExceededError("f"),
        absl::CancelledError("g"), absl::InternalError("h")}) {
    const ApiError error = ErrorOf(status);
    EXPECT_EQ(StatusOfError(error.status, ErrorJson(error)), status);
    EXPECT_EQ(ErrorCodeOf(ErrorJson(error)), error.code);
  }
}

TEST(ApiError, AClientReadsErrorsOfOthers) {
  EXPECT_EQ(StatusOfError(500, ""), absl::InternalError("HTTP status 500"));
  EXPECT_EQ(StatusOfError(404, "<html>"), absl::NotFoundError("<html>"));
  EXPECT_EQ(StatusOfError(429, R"({"error": "slow"})"),
            absl::ResourceExhaustedError(R"({"error": "slow"})"));
  EXPECT_EQ(ErrorMessageOf("\x1b[2Jgone"), "?[2Jgone");
  EXPECT_EQ(ErrorMessageOf(R"({"error": {"message": 3, "code": 4}})"),
            R"({"error": {"message": 3, "code": 4}})");
  EXPECT_EQ(ErrorCodeOf(R"({"error": {"message": 3, "code": 4}})"), "");
  EXPECT_LT(ErrorMessageOf(std::string(100'000, 'x')).size(), 300);
}

}  // namespace
}  // namespace h2o
