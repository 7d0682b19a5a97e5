// Why the coordinator ended a worker's stream, as trailing metadata of it: what
// the status code alone does not tell.  Without it the connection broke.
#pragma once

namespace h2o {

inline constexpr char kStreamEndKey[] = "h2oserve-end";

inline constexpr char kStreamEndOver[] = "over";        // the group is over
inline constexpr char kStreamEndDrained[] = "drained";  // likewise, in order
inline constexpr char kStreamEndRefused[] = "refused";  // a stranger
inline constexpr char kStreamEndStops[] = "stops";      // the coordinator stops

}  // namespace h2o
