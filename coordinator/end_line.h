// How requests that end are told in the log.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "api/request.h"

namespace h2o {

// Code and message, without what api/refusal.h adds for programs.
std::string Shown(const absl::Status& status);

// "done: 7 + 16 tokens; queue 0.1 s, ..", of a request's last event.
std::string EndLine(const StreamEvent& last);

}  // namespace h2o
