// The floor of a run of `h2oserve bench`: the least time in which the machine's
// rates let the load run.  docs/performance.md defines it.
#pragma once

#include <cstdint>
#include <vector>

#include "embedded/all_reduce_times.h"
#include "kv/kv_geometry.h"
#include "model/model_config.h"

namespace h2o {

// The load of a run: num_seqs prompts of prompt_len tokens, gen_len generated.
struct BenchLoad {
  int prompt_len = 0;
  int gen_len = 0;
  int num_seqs = 0;
  int64_t slots = 0;          // capacity of a head
  int sequences_at_once = 1;  // that decode together
  int64_t packed_tokens = 0;  // see GroupInfo
  double weight_bytes = 0;    // that a step reads, over all ranks
};

// The rates of the machine, of all ranks together.
struct BenchMachine {
  double read_bytes_per_second = 0;
  double flops_per_second = 0;          // of the products that are used
  double product_flops_per_second = 0;  // of those with weights
  int activation_bytes = 4;             // of an element that ranks sum
  // None: one rank.  Between GPUs NCCL's: the fused sums of a layer may take
  // less.
  std::vector<AllReduceTime> all_reduces;
};

struct BenchFloor {
  double prefill_seconds = 0;  // of all prompts
  double decode_seconds = 0;   // of all steps

  double seconds() const { return prefill_seconds + decode_seconds; }
  BenchFloor operator+(const BenchFloor& other) const {
    return {prefill_seconds + other.prefill_seconds,
            decode_seconds + other.decode_seconds};
  }
};

// The least time of the load, its parts one after the other:
//   for each pack of prompts and each decode step, the longer of reading the
//   weights and computing with them (behind a prompt's last attention only with
//   its last row);
//   for a prompt, the arithmetic of causal attention;
//   for a decoded token, the longer of reading the slots held (with 8 bytes of
//   score and position each) and computing with them.
BenchFloor ComputeFloor(const ModelConfig& config, const KvGeometry& geometry,
                        const BenchLoad& load, const BenchMachine& machine);

// The floor with the ranks' all-reduces added, as they were measured alone: two
// a layer and one for the embedding, for each pack and each decode step. Behind
// the last attention of a pack only the prompts' last rows are summed.
BenchFloor AllReduceFloor(const ModelConfig& config, const BenchLoad& load,
                          const BenchMachine& machine);

}  // namespace h2o
