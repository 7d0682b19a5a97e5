// Host memory for uploads to a GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/device.h"

namespace h2o::cuda {

// A ring of host memory that the GPU reads directly.  A part of it is free
// again once the copy from it is done.
class UploadRing {
 public:
  static constexpr int64_t kBytes = 2 * Device::kMaxUploadBytes;

  absl::Status Init() {
    return ToStatus(cudaMallocHost(&data_, kBytes), "pinned memory");
  }
  ~UploadRing() {
    for (const Part& part : parts_) cudaEventDestroy(part.copied);
    for (cudaEvent_t event : spare_) cudaEventDestroy(event);
    cudaFreeHost(data_);
  }

  // Waits until there is room.  REQUIRES: bytes <= kBytes.
  std::byte* Take(int64_t bytes) {
    bytes = CeilDiv(bytes, 256) * 256;
    if (next_ + bytes > kBytes) {
      // The parts behind are of the lap before, and older than all ahead.
      while (!parts_.empty() && parts_.front().begin >= next_) AwaitOldest();
      next_ = 0;
    }
    begin_ = next_;
    end_ = next_ + bytes;
    while (!parts_.empty() && Overlaps(parts_.front())) AwaitOldest();
    next_ = end_;
    return static_cast<std::byte*>(data_) + begin_;
  }
  // REQUIRES: the copy from the part that was taken last is enqueued on
  // `stream`.
  void Copied(cudaStream_t stream) {
    cudaEvent_t event = nullptr;
    if (spare_.empty()) {
      cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    } else {
      event = spare_.back();
      spare_.pop_back();
    }
    cudaEventRecord(event, stream);
    parts_.push_back({begin_, end_, event});
  }

 private:
  struct Part {
    int64_t begin, end;
    cudaEvent_t copied;
  };
  void AwaitOldest() {
    cudaEventSynchronize(parts_.front().copied);
    spare_.push_back(parts_.front().copied);
    parts_.pop_front();
  }
  // Parts are in the order of time: the oldest lies right ahead of us.
  bool Overlaps(const Part& part) const {
    return part.begin < end_ && begin_ < part.end;
  }

  void* data_ = nullptr;
  int64_t next_ = 0, begin_ = 0, end_ = 0;
  std::deque<Part> parts_;
  std::vector<cudaEvent_t> spare_;
};

}  // namespace h2o::cuda
