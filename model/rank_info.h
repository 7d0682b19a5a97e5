// RankInfo: what is known of a rank once it has loaded.  The rank fills it once
// and it is carried whole, over pipes and the wire, to the Engine and to
// reports.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/sum_way.h"
#include "kv/kv_geometry.h"
#include "model/model_config.h"

namespace h2o {

// Where the memory of a rank goes, in bytes.
struct MemoryPlan {
  int64_t weights = 0;
  // Of the weights, tables of which a step reads only some rows.
  int64_t looked_up = 0;
  int64_t workspace = 0;
  int64_t kv_pool = 0;

  friend bool operator==(const MemoryPlan&, const MemoryPlan&) = default;
};

// Measured seconds of one sum over ranks of `rows` rows and the AddNorm of it,
// by SumWay; infinite for ways that cannot sum so many rows.
struct SumTimes {
  int64_t rows = 0;
  std::array<float, kSumWays> seconds = {};

  friend bool operator==(const SumTimes&, const SumTimes&) = default;
};

struct RankInfo {
  ModelConfig config;   // as this rank reads it
  KvGeometry geometry;  // of the pages of its KV pool
  int64_t num_slabs = 0;
  // Tokens of several prompts that one prefill may hold; 0: one prompt each.
  int64_t packed_tokens = 0;
  // Equal for all ranks that hold the same model in the same formats.
  std::string fingerprint;
  MemoryPlan memory;
  std::vector<SumTimes> sums;  // empty where there is only one way to sum

  friend bool operator==(const RankInfo&, const RankInfo&) = default;
};

}  // namespace h2o
