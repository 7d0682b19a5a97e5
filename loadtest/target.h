// A server under load.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "loadtest/request_record.h"

namespace h2o {

struct LoadRequest {
  std::vector<int32_t> prompt;
  int output_tokens = 1;  // exactly so many, whatever the model says
  int tenant = 0;
};

// Which of `num_keys` keys a tenant's requests carry: the only one is all
// tenants'.
// Errors: INVALID_ARGUMENT if there are fewer than tenants, as on a generator
// whose file of tenants is not the leader's.
inline absl::StatusOr<size_t> KeyOfTenant(int tenant, size_t num_keys) {
  if (num_keys == 1) return 0;
  if (tenant >= 0 && static_cast<size_t>(tenant) < num_keys) return tenant;
  return absl::InvalidArgumentError(absl::StrCat(
      "the request is of tenant ", tenant, ", and keys are known of ", num_keys,
      "; give --tenants as the leader has it"));
}

// Called from any thread, for one request one call at a time.  `now` is the
// time of the Pace.
struct LoadHandler {
  std::function<void(double now, int tokens)> on_tokens;
  // Once, last.  `error` is empty if kOk.
  std::function<void(double now, LoadOutcome outcome, std::string error)>
      on_end;
};

// Threads  any.
class Target {
 public:
  // Waits for the ends of all requests.
  virtual ~Target() = default;

  // Sends the request and returns at once.  It is asked once: what is refused
  // is the measurement's result.
  virtual void Start(LoadRequest request, LoadHandler handler) = 0;

  // Cuts off all requests that run; their ends still come.
  virtual void CancelAll() = 0;
};

}  // namespace h2o
