// Why a request was refused and when to ask again, carried by its status: a
// door turns them into its own codes and headers.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"

namespace h2o {

// Why a request was not taken, or was sent away from the queue.
enum class Refusal : uint8_t {
  kBadRequest,     // also one that can never fit
  kQueueFull,      // --max-queue
  kQueueTokens,    // --max-queue-tokens
  kQueueSeconds,   // it waited too long
  kTenantWaiting,  // its tenant has as many in the queue as it may
  kTenantTokens,   // its tenant has used up its tokens of this minute
  kNoGroup,
  kDraining,
  kUnauthenticated,  // no key, a wrong one, or no certificate for it
  kForbidden,        // a key that may not do this
  kWorker,           // a worker that may not join
  kConnection,       // closed before it sent a request
};
inline constexpr int kRefusals = 12;
const char* Name(Refusal refusal);

// `status` with the reason, and after how many seconds to ask again, if that
// is known.
absl::Status Refused(Refusal reason, absl::Status status,
                     std::optional<double> retry_after_seconds = std::nullopt);

// What Refused put into it; none: nothing.
std::optional<Refusal> RefusalOf(const absl::Status& status);
std::optional<double> RetryAfterSeconds(const absl::Status& status);

// `status`, marked as that of a request which is longer than the model or the
// groups can ever hold.
absl::Status NeverFitting(absl::Status status);
bool NeverFits(const absl::Status& status);

}  // namespace h2o
