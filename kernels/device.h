// A Device is the memory of a CPU or GPU and one queue of work on it.  A CPU
// does the work at once.  A GPU does it later: the host waits for marks (CUDA
// events) in the queue.
//
// Threads  one owner, the step thread of the rank.
// Errors   Allocate and the calls that wait can fail.  Calls that enqueue work
//          cannot: the next wait reports a device that failed, and every wait
//          after it does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/device_name.h"

namespace h2o {

// The queue's handle (a CUDA stream), for libraries that enqueue by themselves
// (NCCL).  Null on CPUs.
struct Stream {
  void* handle = nullptr;
};

// Memory with one owner: zeroed, aligned to 64 bytes.
class Buffer {
 public:
  using Release = void (*)(std::byte* data, int64_t bytes);

  Buffer() = default;
  Buffer(std::byte* data, int64_t bytes, Release release)
      : data_(data), bytes_(bytes), release_(release) {}
  // The host's.  Errors: RESOURCE_EXHAUSTED naming the size.
  static absl::StatusOr<Buffer> AllocateHost(int64_t bytes);
  Buffer(Buffer&& other) noexcept { *this = static_cast<Buffer&&>(other); }
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  std::byte* data() const { return data_; }
  template <class T>
  T* As() const {
    return reinterpret_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  Release release_ = nullptr;
};

class Device {
 public:
  virtual ~Device() = default;

  // Memory of the device.  Errors: RESOURCE_EXHAUSTED naming the size.
  virtual absl::StatusOr<Buffer> Allocate(int64_t bytes) = 0;
  // Memory of the host to which Download is quick.  Errors: likewise.
  virtual absl::StatusOr<Buffer> AllocateStaging(int64_t bytes) = 0;
  // About how much could still be allocated, and how much the device took for
  // its own scratch memory.
  virtual int64_t FreeBytes() const = 0;
  virtual int64_t OwnBytes() const = 0;

  // Enqueues a copy to the device.  `fill` writes the `bytes` to host memory
  // that it is given; it runs before this returns, in the calling thread.
  // REQUIRES: bytes <= kMaxUploadBytes.
  static constexpr int64_t kMaxUploadBytes = 32 << 20;
  virtual void UploadFrom(int64_t bytes, void* device,
                          absl::FunctionRef<void(std::byte* host)> fill) = 0;
  // Enqueues a copy of `host`, which may be changed on return.  Any size.
  void Upload(const void* host, int64_t bytes, void* device);
  template <class T>
  void UploadAll(const std::vector<T>& values, T* device) {
    Upload(values.data(), static_cast<int64_t>(values.size() * sizeof(T)),
           device);
  }
  // Enqueues a copy from the device; `host` has it after a later mark.
  virtual void Download(const void* device, int64_t bytes, void* host) = 0;
  // Enqueues a copy within the device of `rows` rows of `row_bytes`.
  virtual void CopyRows(const void* from, int64_t from_stride_bytes, void* to,
                        int64_t to_stride_bytes, int64_t row_bytes,
                        int64_t rows) = 0;

  // Puts a mark into the queue.  The last kMaxMarks of them are kept.
  static constexpr int64_t kMaxMarks = 4096;
  virtual int64_t Mark() = 0;
  // Whether the work before the mark is done, or the device has failed.
  virtual bool Reached(int64_t mark) = 0;
  virtual absl::Status Wait(int64_t mark) = 0;
  // REQUIRES: both are reached.
  virtual double SecondsBetween(int64_t earlier, int64_t later) = 0;
  // Waits for all work that is enqueued.
  virtual absl::Status Synchronize() = 0;

  // Enqueues the operations that `work` enqueues.  A GPU records them at the
  // second call with a key (as a CUDA graph) and replays the recording from
  // then on: `work` of one key must enqueue the same operations on the same
  // memory.
  virtual absl::Status Replay(uint64_t key,
                              absl::FunctionRef<absl::Status()> work) = 0;
  // The number of rows, at least `rows`, for which decode steps are recorded.
  virtual int64_t BatchBucket(int64_t rows) const = 0;

  virtual Stream stream() const = 0;
};

}  // namespace h2o
