// Measures how long one AllReduceSum takes, for each number of bytes and each
// kind of Communicator, on ranks that do nothing else.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace h2o {

// What the ranks are and how they are connected.
enum class RankKind {
  kThreads,    // of this process: embedded groups on CPUs
  kProcesses,  // of this host, over shared memory
  kHosts,      // processes over TCP
  kGpus,       // a process and a GPU each, over NCCL
};

struct AllReduceOptions {
  RankKind kind = RankKind::kThreads;
  int ranks = 2;
  int first_gpu = 0;           // rank r has GPU first_gpu + r
  std::vector<int64_t> bytes;  // of bf16 in GPU memory, else of float32
  double seconds = 0.5;        // measured, for each size, about
  // Sums in a batch; time is taken for each batch.  On GPUs a batch is
  // recorded, because a mark takes as long as several sums.
  int batch = 1;
  // Whether each rank checks every element of the first and of the last sum.
  bool verify = false;
  bool pin = false;  // rank k to core k
};

// Of rank 0.
struct AllReduceTime {
  int64_t bytes = 0;
  int64_t operations = 0;
  double median = 0, p10 = 0, p90 = 0;  // seconds
};

// One for each of options.bytes.  The time of a sum is that of its batch
// divided by the sums in it.  Ranks that are processes are forked from this one
// (ForkedRanks). Errors: FAILED_PRECONDITION without the GPUs; those of the
// communicators; UNAVAILABLE if a rank dies or is silent for long.
absl::StatusOr<std::vector<AllReduceTime>> MeasureAllReduces(
    const AllReduceOptions& options);

// The median time of a sum of `bytes`, interpolated linearly between the sizes
// measured; 0 if there are none.  `times`: in the order of bytes.
double SecondsOf(const std::vector<AllReduceTime>& times, double bytes);

}  // namespace h2o
