// When a call that failed is made again.  Pure: time and chance are given.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "h2oserve/client.h"

namespace h2o {

class Retry {
 public:
  // `seed` spreads the calls of one program.
  Retry(const RetryOptions& options, uint64_t seed)
      : options_(options), seed_(seed) {}

  // Seconds until the next attempt after one that ended with `status` at `now`;
  // none: the failure stands.  `last_answer` is when the server last gave a
  // whole answer to any call of this program.  `told` is after how many seconds
  // the server wants to be asked again, if it has said so: no wait is shorter.
  // A message that is too large for the server is RESOURCE_EXHAUSTED as well,
  // and stands.
  std::optional<double> After(const absl::Status& status, double now,
                              double last_answer,
                              std::optional<double> told = std::nullopt);

  // An attempt has given something: the next failure is a first one.
  void Restart();

  static constexpr double kMostToldSeconds = 30;  // that a server can ask for

 private:
  double NextWait();

  const RetryOptions options_;
  const uint64_t seed_;
  uint64_t draws_ = 0;
  int attempts_ = 0;                    // that failed
  std::optional<double> first_failed_;  // when the first of them did
};

}  // namespace h2o
