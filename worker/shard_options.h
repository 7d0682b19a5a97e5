// What a rank is told when it is made.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/device.h"
#include "model/model_config.h"
#include "model/model_spec.h"

namespace h2o {

struct ShardOptions {
  ModelConfig config;
  ModelSpec model;
  DeviceName device;
  int rank = 0;
  int size = 1;
  int num_threads = 1;  // of the CPU's arithmetic and of loading

  // Bytes of the KV pool.  0: `memory_share` of the memory that is free once
  // weights and workspace are allocated, divided by the `local_ranks` ranks
  // that share this device, and at most what max_sequences sequences of full
  // length need.
  int64_t kv_pool_bytes = 0;
  double memory_share = 0;  // 0: 0.5 of a CPU's memory, 0.95 of a GPU's
  int local_ranks = 1;
  // A name of the ranks that share this host's memory so, which no others have.
  // Empty: the rank is alone.  Of CPUs only.
  std::string memory_group;

  int max_sequences = 256;  // open at once

  // Keeps a GPU's choices of kernels and the fingerprints of files between
  // runs; empty: they are not kept.
  std::string cache_directory;
  // Fingerprints tell ranks of different directories apart.  Ranks of one
  // process, which read one directory, have none.
  bool fingerprint = true;
};

// Options of rank `rank` of a group all of whose ranks run on this host.
// `group` has what they have in common; its num_threads are those of all ranks,
// 0: one a core.  On CPUs the ranks share cores and memory.  On GPUs rank r has
// the GPU group.device.ordinal + r to itself.
ShardOptions OptionsOfRank(const ShardOptions& group, int rank);

}  // namespace h2o
