// The report of a run: what its records say.
//
// Latencies are of requests that were answered whole and were to be sent behind
// the warm-up.  They count from the intended send time, so a server that stalls
// is charged for the requests that would have been sent meanwhile ("coordinated
// omission", Tene, "How not to measure latency", 2015).
//
// Units    seconds, tokens.  JSON and text have milliseconds where names end in
//          `_ms`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "loadtest/load_spec.h"
#include "loadtest/request_record.h"
#include "loadtest/statistics.h"

namespace h2o {

// What a request must keep.  None: no limit.
struct Slo {
  std::optional<double> ttft_seconds, tpot_seconds, e2e_seconds;
  double share = 0.95;  // of all requests that must keep it

  bool Any() const { return ttft_seconds || tpot_seconds || e2e_seconds; }
};

// Whether the request was answered whole within the limits.
bool Keeps(const RequestRecord& record, const Slo& slo);

// Of a set of requests.
struct Tally {
  std::string name;
  double weight = 1;  // of a tenant
  int64_t requests = 0, ok = 0, refused = 0, failed = 0, unfinished = 0;
  int64_t good = 0;  // keep the SLO
  int64_t cut = 0;
  int64_t prompt_tokens = 0;  // of answered requests
  int64_t output_tokens = 0;  // of all
  Distribution ttft, lateness;
};

// One generator's clock beside the leader's.
struct GeneratorClock {
  std::string name;
  double round_trip_seconds = 0;  // of the best exchange; half of it may be off
  double drift_seconds = 0;  // of the offset, from before to behind the run
  int64_t waited = 0;        // requests that found max_in_flight others running
};

// What happened from `begin` on, for Report::bucket_seconds.
struct Bucket {
  double begin = 0;
  int64_t intended = 0, ended = 0, refused = 0, failed = 0;
  int64_t tokens = 0;
  int64_t in_flight = 0;  // at its end
};

struct Report {
  LoadSpec spec;
  Slo slo;
  double seconds = 0;  // from the end of the warm-up to the last answer
  Tally all;
  std::vector<Tally> tenants, targets, generators;
  std::vector<GeneratorClock> clocks;  // by generator
  Distribution ttft, ttft_from_send, tpot, itl, e2e, lateness;
  double fairness = 1;  // Jain's, of the tenants' tokens by weight
  double bucket_seconds = 1;
  std::vector<Bucket> timeline;
  // Whether about as many requests ended as came, in the second half of the
  // time in which they came.
  bool keeps_up = true;
  std::string first_error;
  std::vector<std::string> warnings;

  double PerSecond(int64_t count) const {
    return seconds > 0 ? static_cast<double>(count) / seconds : 0;
  }
  double GoodShare() const {
    return all.requests > 0 ? static_cast<double>(all.good) /
                                  static_cast<double>(all.requests)
                            : 0;
  }
};

// What a search for the largest rate tried, and found.
struct LimitProbe {
  double rate = 0;
  double good_share = 0;
  bool keeps_up = true;
  bool kept = false;  // the SLO
  double tokens_per_second = 0;
};
struct LimitReport {
  std::optional<double> rate;      // none: the least rate missed too
  std::optional<double> too_much;  // none: the greatest rate kept it
  std::vector<LimitProbe> probes;
};

// `records` in any order.  `clocks` by generator.
Report MakeReport(const LoadSpec& spec, const Slo& slo,
                  const std::vector<RequestRecord>& records,
                  const std::vector<GeneratorClock>& clocks);

// Requests may be late so far at the 99th percentile; more is warned of.
inline constexpr double kMostLateSeconds = 0.01;

}  // namespace h2o
