// When to ask again, as trailing metadata of a call that was refused.
#pragma once

namespace h2o {

// Milliseconds, a whole number.
inline constexpr char kRetryAfterKey[] = "retry-after-ms";

}  // namespace h2o
