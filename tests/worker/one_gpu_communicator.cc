// Collectives of ranks that share one GPU, made of one_gpu_sums.h's kernels on
// the stream of each rank.
#include "tests/worker/one_gpu_communicator.h"

#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/cuda/cuda_error.h"
#include "parallel/failure_latch.h"
#include "tests/kernels/cuda/device_array.h"
#include "tests/worker/one_gpu_sums.h"

namespace h2o {
namespace {

constexpr int64_t kMostBytes = int64_t{32} << 20;  // of a rank's operation

template <class T>
DeviceArray<T> Zeros(int64_t size) {
  return DeviceArray<T>(std::vector<T>(size));
}

}  // namespace

class OneGpuMeeting {
 public:
  explicit OneGpuMeeting(int size)
      : size_(size),
        point_(Zeros<MeetingPoint>(1)),
        rounds_(Zeros<uint32_t>(size)),
        numbers_(Zeros<std::byte>(size * kMostBytes)) {}

  int size() const { return size_; }
  std::byte* NumbersOf(int rank) const {
    return numbers_.data() + rank * kMostBytes;
  }
  cudaError_t Meet(int rank, cudaStream_t stream) const {
    return h2o::Meet(point_.data(), rounds_.data() + rank, size_, stream);
  }
  void Open() const {
    const MeetingPoint open = {.open = 1};
    CheckCuda(
        cudaMemcpy(point_.data(), &open, sizeof(open), cudaMemcpyHostToDevice));
    CheckCuda(cudaDeviceSynchronize());
  }

 private:
  const int size_;
  const DeviceArray<MeetingPoint> point_;
  const DeviceArray<uint32_t> rounds_;
  const DeviceArray<std::byte> numbers_;  // [size][kMostBytes]
};

namespace {

class OneGpuCommunicator final : public Communicator {
 public:
  OneGpuCommunicator(std::shared_ptr<OneGpuMeeting> meeting, int rank)
      : meeting_(std::move(meeting)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return meeting_->size(); }
  void UseStream(Stream stream) override {
    stream_ = static_cast<cudaStream_t>(stream.handle);
  }

  absl::Status AllReduceSum(void* data, int64_t count, DType dtype) override {
    H2O_RETURN_IF_ERROR(Tell(data, count * SizeOf(dtype)));
    H2O_RETURN_IF_ERROR(
        cuda::ToStatus(SumRanks(meeting_->NumbersOf(0), kMostBytes, size(),
                                count, dtype, data, stream_),
                       "sum"));
    return Meet();
  }

  absl::Status AllGather(const void* mine, absl::Span<const int64_t> bytes,
                         void* all) override {
    H2O_RETURN_IF_ERROR(Tell(mine, bytes[rank_]));
    auto* to = static_cast<std::byte*>(all);
    for (int r = 0; r < size(); to += bytes[r++]) {
      H2O_RETURN_IF_ERROR(Copy(meeting_->NumbersOf(r), bytes[r], to));
    }
    return Meet();
  }

  void Abort(absl::Status reason) override { failure_.Set(std::move(reason)); }

 private:
  absl::Status Copy(const void* from, int64_t bytes, void* to) {
    return cuda::ToStatus(h2o::Copy(from, bytes, to, stream_), "copy");
  }

  // Puts this rank's numbers where all see them, and waits for all to have.
  absl::Status Tell(const void* data, int64_t bytes) {
    H2O_CHECK(bytes <= kMostBytes) << bytes << " bytes";
    H2O_RETURN_IF_ERROR(failure_.Get());
    H2O_RETURN_IF_ERROR(Copy(data, bytes, meeting_->NumbersOf(rank_)));
    return Meet();
  }

  absl::Status Meet() {
    return cuda::ToStatus(meeting_->Meet(rank_, stream_), "meeting");
  }

  const std::shared_ptr<OneGpuMeeting> meeting_;
  const int rank_;
  cudaStream_t stream_ = nullptr;
  FailureLatch failure_;
};

}  // namespace

OneGpuGroup::OneGpuGroup(int size)
    : meeting_(std::make_shared<OneGpuMeeting>(size)) {}

std::unique_ptr<Communicator> OneGpuGroup::Rank(int rank) {
  return std::make_unique<OneGpuCommunicator>(meeting_, rank);
}

void OneGpuGroup::EndRehearsal() { meeting_->Open(); }

}  // namespace h2o
