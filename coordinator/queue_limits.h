// How many requests may wait, in all and of one tenant.
//
// A full queue still takes a request of a tenant that has less than its share
// of the queue waiting, so that nobody can lock out the others by filling it.
// At most twice the limit waits.
#pragma once

#include "absl/status/status.h"
#include "api/engine_options.h"
#include "coordinator/request_queue.h"
#include "coordinator/sequence.h"

namespace h2o {

// Whether the queue has room for one more request.  Errors: RESOURCE_EXHAUSTED
// with the limit, the reason (api/refusal.h) and `retry_after_seconds`.
absl::Status CheckQueueLimits(const EngineOptions& options,
                              const RequestQueue& queue,
                              const Sequence& sequence,
                              double retry_after_seconds);

}  // namespace h2o
