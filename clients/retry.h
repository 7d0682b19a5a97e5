// When a call that failed is made again.  Pure: time and chance are given.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"

namespace h2o {

class Retry {
 public:
  // `seed` spreads the calls of one program.
  explicit Retry(uint64_t seed) : seed_(seed) {}

  // Seconds until the next attempt after one that ended with `status` at `now`;
  // none: the failure stands.  `last_answer` is when the server last gave a
  // whole answer to any call of this program.  `told` is after how many seconds
  // the server wants to be asked again, if it has said so: no wait is shorter.
  //
  // UNAVAILABLE  the server starts, or has lost a group: five more attempts
  //              within kUnavailableSeconds.
  // RESOURCE_EXHAUSTED  its queue is full: as long as it answers somebody, and
  //              kBusySeconds more.  A message that is too large for it has the
  //              same code and stands.
  std::optional<double> After(const absl::Status& status, double now,
                              double last_answer,
                              std::optional<double> told = std::nullopt);

  static constexpr double kFirstSeconds = 0.25;  // doubled with each attempt
  static constexpr double kMostSeconds = 4;
  static constexpr double kMostToldSeconds = 30;  // that a server can ask for
  static constexpr int kUnavailableRetries = 5;
  static constexpr double kUnavailableSeconds = 15;
  static constexpr double kBusySeconds = 60;

 private:
  double NextWait();

  uint64_t seed_;
  int attempts_ = 0;                    // that failed
  std::optional<double> first_failed_;  // when the first of them did
};

}  // namespace h2o
