// The report of a run of `h2oserve bench`: what was measured, beside the floor.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "clients/bench_floor.h"
#include "coordinator/engine.h"
#include "embedded/all_reduce_times.h"
#include "kernels/machine_rates.h"
#include "model/rank_info.h"

namespace h2o {

// Gets every token of a run and times the decode steps of the full batch: those
// in which all `num_seqs` sequences take part and no prompt is prefilled.  The
// tokens of a step arrive together, first tokens before decoded ones.  So
// between the last sequence's first token and the first end of a sequence,
// every num_seqs tokens are a step.  The time of a step starts at the end of
// the step before, so it includes the workers' and the coordinator's.
class FullBatchSteps {
 public:
  explicit FullBatchSteps(int num_seqs) : num_seqs_(num_seqs) {}

  // `first`, `last`: of its sequence.
  void OnToken(double now, bool first, bool last);

  // Empty if the batch was never full for two consecutive steps.
  const std::vector<double>& seconds() const { return seconds_; }

 private:
  const int num_seqs_;
  int started_ = 0;
  int tokens_ = 0;  // of the step at hand
  bool over_ = false;
  double last_step_ = -1;  // when it ended
  std::vector<double> seconds_;
};

// When the tokens of one request came.
struct Arrivals {
  double first = 0, last = 0;
  int tokens = 0;
};

// What happened in a run.
struct BenchRun {
  explicit BenchRun(int num_seqs) : arrivals(num_seqs), full_batch(num_seqs) {}

  std::vector<Arrivals> arrivals;  // by request
  std::vector<double> gaps;        // between tokens of a request, seconds
  FullBatchSteps full_batch;
  double start = 0;
  double seconds = 0;
  int peak_running = 0;    // requests
  int64_t peak_bytes = 0;  // of memory; of GPUs what was planned
  Engine::Counters spent;  // steps and seconds, of the run alone
};

// The rates of the machine, of all ranks together, measured beside the run.
struct BenchCeilings {
  MachineRates before, after;              // it
  std::vector<AllReduceTime> all_reduces;  // none: one rank

  MachineRates Mean() const;
};

// Everything that the report shows.
struct BenchReport {
  std::string model;
  int tp = 1;
  int threads = 0;
  bool gpu = false;
  double load_seconds = 0;
  MemoryPlan memory;
  std::vector<SumTimes> sums;  // within AddNorm and beside; none: one way only
  BenchLoad load;
  BenchRun run;
  BenchCeilings ceilings;
  BenchFloor floor, all_reduces;  // see AllReduceFloor
};

// On stdout: one JSON object in a line, or text.
void Print(const BenchReport& report, bool json);

// Greatest resident set of this process so far, in bytes.
int64_t PeakResidentBytes();

}  // namespace h2o
