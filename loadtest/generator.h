// A generator that has joined a leader: sends its part of each run, until the
// leader is done.
//
// Clocks are aligned as Cristian, "Probabilistic clock synchronization", 1989:
// of several exchanges the one with the shortest round trip counts, and is off
// by at most half of that.
//
// Threads  one owner.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "http/http_client.h"
#include "loadtest/fleet.h"
#include "loadtest/pace.h"

namespace h2o {

struct GeneratorOptions {
  HttpUrl leader;
  std::string name;          // in the report
  double join_seconds = 60;  // a leader that starts later is waited for
};

// Returns when the leader is done.  `stopped` is asked a few times a second.
// Errors: UNAVAILABLE if the leader cannot be reached or is lost,
// INVALID_ARGUMENT if it takes no more generators, CANCELLED if it was stopped.
absl::Status Generate(const GeneratorOptions& options, Targets* targets,
                      Pace* pace, const std::function<bool()>& stopped);

}  // namespace h2o
