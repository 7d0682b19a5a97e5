// A request as it comes to the Engine: all that can be found out about it
// before the Engine's lock is taken.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "api/request.h"
#include "coordinator/request_spec.h"
#include "coordinator/sequence.h"
#include "model/step.h"

namespace h2o {

struct Arrival {
  absl::Status status;  // why it is refused; OK so far
  TenantRow tenant;
  int32_t priority = 0;
  std::optional<double> timeout_seconds;
  int32_t choices = 1;
  AnswerForm form;
  std::vector<int32_t> generated;
  SequenceSpec spec;                 // of a prompt of tokens
  std::optional<Request> to_encode;  // a text
  int64_t expected_tokens = 0;       // of the text and its answer, at least
};

Arrival ArrivalOf(Request request, const RequestRules& rules);

}  // namespace h2o
