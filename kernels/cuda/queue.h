// A Queue is one stream of a GPU with its marks (CUDA events), its recorded
// work (CUDA graphs) and its first failure, which every wait reports.
//
// Threads  one owner, which may be another thread than the one that made it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace h2o::cuda {

class Queue {
 public:
  explicit Queue(int ordinal);
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  absl::Status Init();

  cudaStream_t stream() const { return stream_; }
  // Makes the calling thread's calls of CUDA go to this GPU.
  void UseDevice();

  // Keeps the first failure, of the work named `operation`.
  void Note(cudaError_t error, const char* operation);
  void Note(absl::Status status) { failure_.Update(status); }

  // Those of kernels/device.h.
  int64_t Mark();
  bool Reached(int64_t mark) const;
  absl::Status Wait(int64_t mark);
  absl::Status Synchronize();
  double SecondsBetween(int64_t earlier, int64_t later);
  absl::Status Replay(uint64_t key, absl::FunctionRef<absl::Status()> work);

 private:
  cudaEvent_t EventOf(int64_t mark) const;
  absl::StatusOr<cudaGraphExec_t> Record(
      absl::FunctionRef<absl::Status()> work);

  const int ordinal_;
  cudaStream_t stream_ = nullptr;
  std::vector<cudaEvent_t> events_;  // a ring; null until used
  int64_t next_mark_ = 0;
  std::unordered_map<uint64_t, cudaGraphExec_t> recordings_;  // null: seen once
  absl::Status failure_;
};

}  // namespace h2o::cuda
