// The messages between a leader and its generators, as JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "loadtest/load_report.h"
#include "loadtest/load_run.h"
#include "loadtest/request_record.h"

namespace h2o {

// What a leader wants of a generator.
struct NextMessage {
  enum class State : uint8_t { kWait, kRun, kDone };
  State state = State::kWait;
  // Of kRun:
  int run = 0;
  std::string spec;  // JSON of a LoadSpec
  LoadPart part;
  double start = 0;  // of the leader's clock
};

// What a generator tells while it runs, and at its end.
struct ReportMessage {
  int generator = 0;
  int run = 0;
  LoadProgress progress;
  std::vector<RequestRecord> records;  // new ones
  bool ended = false;
  std::string fault;  // why it cannot run; empty: it can
  // At the end:
  double round_trip_seconds = 0;
  double drift_seconds = 0;
};

std::string ToJson(const NextMessage& message);
absl::StatusOr<NextMessage> NextFromJson(const std::string& text);
std::string ToJson(const ReportMessage& message);
absl::StatusOr<ReportMessage> ReportFromJson(const std::string& text);

}  // namespace h2o
