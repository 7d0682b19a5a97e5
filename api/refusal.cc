// Puts the reason of a refusal into its status, and reads it.
#include "api/refusal.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace h2o {
namespace {

constexpr char kReason[] = "h2oserve/refusal";
constexpr char kNeverFits[] = "h2oserve/never-fits";
constexpr char kRetryAfter[] = "h2oserve/retry-after-ms";

void PutNumber(const char* key, int64_t number, absl::Status* status) {
  // From a view: libabsl of Debian 12 lacks clang's name of Cord(std::string).
  status->SetPayload(key, absl::Cord(absl::AlphaNum(number).Piece()));
}

std::optional<int64_t> NumberIn(const absl::Status& status, const char* key) {
  const auto payload = status.GetPayload(key);
  int64_t number = 0;
  if (!payload || !absl::SimpleAtoi(std::string(*payload), &number)) {
    return std::nullopt;
  }
  return number;
}

}  // namespace

const char* Name(Refusal refusal) {
  constexpr const char* kNames[kRefusals] = {
      "bad_request",     "queue_full",    "queue_tokens", "queue_seconds",
      "tenant_waiting",  "tenant_tokens", "no_group",     "draining",
      "unauthenticated", "forbidden",     "worker",       "connection"};
  return kNames[static_cast<size_t>(refusal)];
}

absl::Status Refused(Refusal reason, absl::Status status,
                     std::optional<double> retry_after_seconds) {
  PutNumber(kReason, static_cast<int>(reason), &status);
  if (retry_after_seconds) {
    const auto ms =
        static_cast<int64_t>(std::ceil(*retry_after_seconds * 1000));
    PutNumber(kRetryAfter, std::max<int64_t>(ms, 1), &status);
  }
  return status;
}

std::optional<Refusal> RefusalOf(const absl::Status& status) {
  const std::optional<int64_t> number = NumberIn(status, kReason);
  if (!number) return std::nullopt;
  return static_cast<Refusal>(*number);
}

std::optional<double> RetryAfterSeconds(const absl::Status& status) {
  const std::optional<int64_t> ms = NumberIn(status, kRetryAfter);
  if (!ms) return std::nullopt;
  return static_cast<double>(*ms) / 1000;
}

absl::Status NeverFitting(absl::Status status) {
  status.SetPayload(kNeverFits, absl::Cord("1"));
  return status;
}

bool NeverFits(const absl::Status& status) {
  return status.GetPayload(kNeverFits).has_value();
}

}  // namespace h2o
