// What came of one request, and the raw log: one record a line, as JSON.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace h2o {

enum class LoadOutcome : uint8_t {
  kOk,
  kRefused,     // the server, or the tenant's share of it, was full
  kFailed,      // any other fault
  kUnfinished,  // cut off at the end of the run
};
const char* Name(LoadOutcome outcome);

// The tokens that came together.
struct TokenPiece {
  double at = 0;
  int tokens = 0;
  friend bool operator==(const TokenPiece&, const TokenPiece&) = default;
};

// Times are in seconds from the run's start, of the leader's clock.
struct RequestRecord {
  int64_t index = 0;  // of the plan
  int generator = 0;
  int target = 0;
  int tenant = 0;
  int prefix = -1;
  int prompt_tokens = 0;
  int wanted_tokens = 0;  // of the answer
  double intended = 0;    // when it was to be sent; latencies count from here
  double sent = 0;
  double end = 0;
  std::vector<TokenPiece> pieces;
  LoadOutcome outcome = LoadOutcome::kOk;
  std::string error;  // empty if kOk

  int OutputTokens() const;
  bool HasToken() const { return !pieces.empty(); }
  double Ttft() const { return pieces.front().at - intended; }
  double TtftFromSend() const { return pieces.front().at - sent; }
  double E2e() const { return end - intended; }
  double Lateness() const { return sent - intended; }
  // The mean time of a token behind the first piece; none: all came at once.
  std::optional<double> Tpot() const;

  friend bool operator==(const RequestRecord&, const RequestRecord&) = default;
};

std::string ToJson(const RequestRecord& record);
// Errors: INVALID_ARGUMENT.
absl::StatusOr<RequestRecord> RecordFromJson(std::string_view line);

}  // namespace h2o
