// Workers without a model, for load tests of a coordinator: each holds a real
// stream to it and answers every plan after a fixed time.  The ranks of all
// groups live in this process and share one timer, so a thousand of them cost
// little.
//
// A token tells when it was sent: it is StampOf the time at which the last rank
// of its group sent its result.  So a client in this process can tell how long
// the coordinator took.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "model/model_spec.h"

namespace h2o {

struct SimulatedGroupsOptions {
  std::string coordinator;  // HOST:PORT
  std::string version;      // of this program, equal to the coordinator's
  ModelSpec model;          // the coordinator's
  int ranks = 4;            // in all, of all groups
  int64_t slabs_of_a_rank = 1 << 20;
  double step_seconds = 0.02;
};

// Tokens count in units of kStampSeconds and begin anew every second.  They
// begin behind kFirstStamp, so that none is a special token.
inline constexpr double kStampSeconds = 25e-6;
inline constexpr int32_t kFirstStamp = 1000;
int32_t StampOf(double now);
// Seconds from the stamp to `now`, if they are less than a second.
double SecondsSince(int32_t stamp, double now);

// The clock of stamps: steady, in seconds.
double StampClock();

class SimulatedGroups {
 public:
  struct Counters {
    int64_t steps = 0;        // of groups
    double late_seconds = 0;  // that groups waited for a next plan while busy
    int64_t lost = 0;         // streams that ended
    std::string why;          // the first of them
  };

  // Dials in.  Errors: INVALID_ARGUMENT if the model has no config.
  static absl::StatusOr<std::unique_ptr<SimulatedGroups>> Start(
      const SimulatedGroupsOptions& options);

  // Leaves.
  virtual ~SimulatedGroups() = default;
  virtual Counters counters() const = 0;
};

}  // namespace h2o
