// What a run of `h2oserve bench` would take on a machine that is never idle.
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

// What the machine of a run can do: all ranks together.
struct BenchMachine {
  double read_bytes_per_second = 0;
  double flops_per_second = 0;  // of the products that are used
  int activation_bytes = 4;     // of an element that ranks sum
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

// Of the bytes of weights that `ranks` hold together, those that a step reads:
// not the tables of which it looks up rows.  Every rank has the positions'.
double ReadWeightBytes(const ModelConfig& config, int ranks,
                       int64_t stored_bytes);

// The least time the load can take, its parts one after the other.  Of each
// pack of prompts and of each decode step: the longer of reading the weights
// and computing with them (behind the last attention of a prompt with its last
// row alone); of a prompt the arithmetic of causal attention; of a
// decoded token the longer of reading the slots held (8 bytes of score and
// position beside each) and computing with them.
BenchFloor ComputeFloor(const ModelConfig& config, const KvGeometry& geometry,
                        const BenchLoad& load, const BenchMachine& machine);

// What comes to it with the ranks' all-reduces, as measured alone: two a layer
// and one of the embedding, for each pack (behind the last attention of the
// prompts' last rows) and each decode step.
BenchFloor AllReduceFloor(const ModelConfig& config, const BenchLoad& load,
                          const BenchMachine& machine);

}  // namespace h2o
