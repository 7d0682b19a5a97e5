// Why a call was refused and when to ask again, as its trailing metadata.
#pragma once

namespace h2o {

// Milliseconds, a whole number.
inline constexpr char kRetryAfterKey[] = "retry-after-ms";
// The name of a Refusal (api/refusal.h).
inline constexpr char kRefusalReasonKey[] = "refusal-reason";

}  // namespace h2o
