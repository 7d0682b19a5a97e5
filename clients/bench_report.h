// What a run of `h2oserve bench` measured, beside what the machine could do.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/machine_rates.h"
#include "kv/kv_geometry.h"
#include "model/opt_config.h"

namespace h2o {

// The load of a run: num_seqs prompts of prompt_len tokens, gen_len generated.
struct BenchLoad {
  int prompt_len = 0;
  int gen_len = 0;
  int num_seqs = 0;
  int64_t slots = 0;  // capacity of a head
};

struct BenchFloor {
  double prefill_seconds = 0;  // of all prompts
  double decode_seconds = 0;   // of all steps
};

// The least time the load can take: for decode, per step, the longer of reading
// the weights and computing with them, and the KV cache read (slots held on
// average, 8 bytes of score and position beside each); for prefill the
// arithmetic of the linear layers and of causal attention.
// `weight_bytes`: what a step reads; `rates`: of the whole machine;
// `flops_per_second`: of the products that are used.
BenchFloor ComputeFloor(const OptConfig& config, const KvGeometry& geometry,
                        const BenchLoad& load, double weight_bytes,
                        int sequences_at_once, double read_bytes_per_second,
                        double flops_per_second);

// Hears every token of a run and times the decode steps of the full batch:
// those in which each of `num_seqs` sequences takes part, and nobody's prompt.
// A step's tokens come together, first tokens before decoded ones, so between
// the last sequence's first token and the first end every num_seqs tokens are a
// step.  The time of a step is from the end of the one before: the workers' and
// the coordinator's.
class FullBatchSteps {
 public:
  explicit FullBatchSteps(int num_seqs) : num_seqs_(num_seqs) {}

  // `first`, `last`: of its sequence.
  void OnToken(double now, bool first, bool last);

  // Empty if the batch never was full for two steps on end.
  const std::vector<double>& seconds() const { return seconds_; }

 private:
  const int num_seqs_;
  int started_ = 0;
  int tokens_ = 0;  // of the step at hand
  bool over_ = false;
  double last_step_ = -1;  // when it ended
  std::vector<double> seconds_;
};

// The q-quantile (0..1) of `values`, 0 without any.
double Quantile(std::vector<double> values, double q);

// Greatest resident set of this process so far, in bytes.
int64_t PeakResidentBytes();

}  // namespace h2o
