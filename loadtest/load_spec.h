// What load to make, whole: plain data that a leader sends to its generators.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "loadtest/lengths.h"
#include "loadtest/trace_file.h"

namespace h2o {

enum class ArrivalKind : uint8_t {
  kPoisson,   // gaps of an exponential distribution
  kGamma,     // of a gamma distribution; LoadSpec::burstiness is its shape
  kConstant,  // all gaps alike
  kTrace,     // as the trace's rows came
  kClosed,    // a fixed number of clients; each asks when it was answered
};

// At `at_seconds` the rate is `per_second`; between points it moves in a
// straight line, before the first and behind the last one it stays.
struct RatePoint {
  double at_seconds = 0;
  double per_second = 0;
  friend bool operator==(const RatePoint&, const RatePoint&) = default;
};

// "5" or "0:1,60:20": SECOND:RATE points in order.
// Errors: INVALID_ARGUMENT naming `text` and what would be right.
absl::StatusOr<std::vector<RatePoint>> ParseRate(const std::string& text);

// A share of the requests is made in a tenant's name.
struct TenantShare {
  std::string name;
  double weight = 1;
  friend bool operator==(const TenantShare&, const TenantShare&) = default;
};

struct LoadSpec {
  ArrivalKind arrivals = ArrivalKind::kPoisson;
  double burstiness = 1;  // 1: as Poisson; less: bursts; more: more even
  std::vector<RatePoint> rate;
  int concurrency = 1;  // of kClosed
  // Requests are begun for so long, or until there were so many; 0: no limit.
  double duration_seconds = 60;
  int64_t max_requests = 0;
  double warmup_seconds = 0;  // requests from before do not count

  Lengths lengths;
  std::vector<TraceRow> trace;
  // Each request has the lengths of a row of the trace: with kTrace of its own
  // row, else of one that is drawn.
  bool trace_lengths = false;
  double trace_speed = 1;  // 2: in half the time
  // Prompt and answer together: the answer, then the prompt, is cut.  0: no
  // limit.
  int max_context = 0;
  int vocab_size = 4000;  // prompts are of tokens under it

  // Such a share of the prompts begins with one of `num_prefixes` texts of
  // `prefix_tokens` tokens.
  double prefix_share = 0;
  int prefix_tokens = 0;
  int num_prefixes = 1;

  std::vector<TenantShare> tenants;  // empty: one without a name
  std::vector<std::string> targets;  // request i goes to the (i mod n)-th
  uint64_t seed = 0;
  // After the last request has begun, those that run get so long.
  double drain_seconds = 60;
  int max_in_flight = 4096;  // of one generator

  friend bool operator==(const LoadSpec&, const LoadSpec&) = default;
};

std::string ToJson(const LoadSpec& spec);
// Errors: INVALID_ARGUMENT.
absl::StatusOr<LoadSpec> LoadSpecFromJson(std::string_view text);

const char* Name(ArrivalKind arrivals);
// Errors: INVALID_ARGUMENT.
absl::StatusOr<ArrivalKind> ParseArrivals(std::string_view name);

}  // namespace h2o
