// Collectives between GPUs through NCCL.
#include "parallel/nccl_communicator.h"

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <future>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/cuda/cuda_error.h"
#include "parallel/failure_latch.h"
#include "parallel/nccl_peers.h"

namespace h2o {
namespace {

// How long a destructor waits for NCCL.  Must be less than the time that a
// worker may be busy after its stream has ended (worker_service.cc).
constexpr std::chrono::seconds kFarewell{2};

// How long an abort waits for a call into NCCL to return.
constexpr std::chrono::seconds kLastCall{1};

// `comm` may be null.
absl::Status ToStatus(ncclResult_t result, const char* what, ncclComm_t comm) {
  if (result == ncclSuccess) return absl::OkStatus();
  std::string text =
      absl::StrCat("NCCL ", what, ": ", ncclGetErrorString(result));
  const char* last = ncclGetLastError(comm);
  if (last != nullptr && *last != '\0') absl::StrAppend(&text, ": ", last);
  return result == ncclSystemError || result == ncclRemoteError
             ? absl::UnavailableError(text)
             : absl::InternalError(text);
}

ncclDataType_t TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return ncclFloat32;
    case DType::kBFloat16:
      return ncclBfloat16;
    case DType::kFloat16:
      return ncclFloat16;
  }
  H2O_CHECK(false) << "dtype " << static_cast<int>(dtype);
  return ncclFloat32;
}

// Memory that ranks map to each other.
struct SharedMemory {
  void* data = nullptr;
  ncclWindow_t window = nullptr;
};

void Release(ncclComm_t comm, const SharedMemory& shared) {
  if (shared.window != nullptr) ncclCommWindowDeregister(comm, shared.window);
  if (shared.data != nullptr) ncclMemFree(shared.data);
}

// Owns NCCL's communicator as long as a thread may still call into it.
struct Handle {
  explicit Handle(ncclComm_t c) : comm(c) {}
  const ncclComm_t comm;
  std::timed_mutex calling;  // held during calls into NCCL; also guards:
  std::vector<SharedMemory> shared;
};

// A word in host memory that kernels may read until the process ends.
absl::StatusOr<uint32_t*> NewAbortWord() {
  void* word = nullptr;
  H2O_RETURN_IF_ERROR(cuda::ToStatus(
      cudaHostAlloc(&word, sizeof(uint32_t), cudaHostAllocMapped),
      "pinned memory"));
  return new (word) uint32_t(0);
}

// Ends a communicator that has not failed.  All ranks must call it.
void Destroy(Handle* handle) {
  int device = 0;
  ncclCommCuDevice(handle->comm, &device);
  cudaSetDevice(device);
  for (const SharedMemory& s : handle->shared) Release(handle->comm, s);
  ncclCommDestroy(handle->comm);
}

void GiveUp(Handle* handle) { ncclCommAbort(handle->comm); }

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> mesh, ncclComm_t comm,
                   uint32_t* aborted)
      : mesh_(std::move(mesh)),
        handle_(std::make_shared<Handle>(comm)),
        aborted_(aborted) {}

  ~NcclCommunicator() override {
    // Destroying waits for the other ranks of this host, aborting does not.
    Leave(failure_.failed() ? GiveUp : Destroy);
    if (left_.wait_for(kFarewell) == std::future_status::ready) {
      leaver_.join();
    } else {
      leaver_.detach();  // it uses nothing of this object
    }
  }

  int rank() const override { return mesh_->rank(); }
  int size() const override { return mesh_->size(); }

  void UseStream(Stream stream) override {
    stream_ = static_cast<cudaStream_t>(stream.handle);
  }

  absl::Status AllReduceSum(void* data, int64_t count, DType dtype) override {
    H2O_CHECK(count >= 0) << "count is " << count;
    return Enqueue("all-reduce", [&](ncclComm_t comm, cudaStream_t stream) {
      return count == 0 ? ncclSuccess
                        : ncclAllReduce(data, data, count, TypeOf(dtype),
                                        ncclSum, comm, stream);
    });
  }

  absl::Status AllGather(const void* mine, absl::Span<const int64_t> bytes,
                         void* all) override {
    H2O_CHECK(bytes.size() == size_t(size()))
        << "sizes of " << bytes.size() << " ranks, the group has " << size();
    return Enqueue("all-gather", [&](ncclComm_t comm, cudaStream_t stream) {
      const bool even = std::all_of(bytes.begin(), bytes.end(),
                                    [&](int64_t b) { return b == bytes[0]; });
      if (!even) return GatherUneven(mine, bytes, all, comm, stream);
      if (bytes[0] == 0) return ncclSuccess;
      return ncclAllGather(mine, all, bytes[0], ncclUint8, comm, stream);
    });
  }

  absl::StatusOr<PeerMemory> MapPeers(int64_t bytes) override {
    std::lock_guard lock(handle_->calling);
    if (failure_.failed()) return failure_.Get();
    const ncclComm_t comm = handle_->comm;
    SharedMemory& shared = handle_->shared.emplace_back();
    H2O_RETURN_IF_ERROR(
        ToStatus(ncclMemAlloc(&shared.data, bytes), "memory", comm));
    // Zeroed before another rank can write into it.
    H2O_RETURN_IF_ERROR(
        cuda::ToStatus(cudaMemset(shared.data, 0, bytes), "memset"));
    H2O_RETURN_IF_ERROR(cuda::ToStatus(cudaDeviceSynchronize(), "memset"));
    H2O_RETURN_IF_ERROR(ToStatus(
        ncclCommWindowRegister(comm, shared.data, bytes, &shared.window,
                               NCCL_WIN_COLL_SYMMETRIC),
        "window", comm));
    PeerMemory memory;
    if (size() > PeerMemory::kMaxRanks ||
        !IsMapped(comm, shared.window, size())) {
      Release(comm, shared);
      handle_->shared.pop_back();
      return memory;
    }
    memory.rank = rank();
    memory.size = size();
    memory.aborted = aborted_;
    H2O_RETURN_IF_ERROR(cuda::ToStatus(
        PointersOfPeers(shared.window, size(), memory.of_rank), "peers"));
    return memory;
  }

  void Abort(absl::Status reason) override {
    mesh_->Abort(reason);
    failure_.Set(std::move(reason));
    std::atomic_ref(*aborted_).store(1);
    Leave(GiveUp);
  }

 private:
  template <class Call>
  absl::Status Enqueue(const char* what, Call&& call) {
    H2O_CHECK(stream_.has_value()) << "UseStream comes before " << what;
    std::lock_guard lock(handle_->calling);
    // Checked under the lock: an abort sets it before it takes the lock.
    if (failure_.failed()) return failure_.Get();
    const absl::Status status =
        ToStatus(call(handle_->comm, *stream_), what, handle_->comm);
    if (!status.ok()) failure_.Set(status);
    return status;
  }

  // Every rank broadcasts its part, all of them in one launch.
  ncclResult_t GatherUneven(const void* mine, absl::Span<const int64_t> bytes,
                            void* all, ncclComm_t comm, cudaStream_t stream) {
    ncclResult_t result = ncclGroupStart();
    if (result != ncclSuccess) return result;
    char* place = static_cast<char*>(all);
    for (int k = 0; k < size(); place += bytes[k++]) {
      if (bytes[k] == 0 || result != ncclSuccess) continue;
      result = ncclBroadcast(k == rank() ? mine : place, place, bytes[k],
                             ncclUint8, k, comm, stream);
    }
    const ncclResult_t ended = ncclGroupEnd();
    return result != ncclSuccess ? result : ended;
  }

  // Ends NCCL's communicator by `how`, in a thread of its own: both ways may
  // wait for graphs that have captured operations, or for peers.  Only the
  // first call has an effect.
  void Leave(void (*how)(Handle*)) {
    std::call_once(leaving_, [&] {
      std::promise<void> done;
      left_ = done.get_future();
      leaver_ = std::thread(
          [handle = handle_, how, done = std::move(done)]() mutable {
            // A step thread that is stuck within a call would use freed memory.
            // Then NCCL is not ended; only the end of the process helps.
            if (!handle->calling.try_lock_for(kLastCall)) return;
            handle->calling.unlock();
            how(handle.get());
            done.set_value();
          });
    });
  }

  const std::unique_ptr<Communicator> mesh_;
  const std::shared_ptr<Handle> handle_;
  uint32_t* const aborted_;
  std::optional<cudaStream_t> stream_;
  FailureLatch failure_;

  std::once_flag leaving_;
  std::thread leaver_;
  std::future<void> left_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> ConnectNccl(
    std::unique_ptr<Communicator> mesh, int ordinal) {
  setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/0);

  // The GPU is opened before ranks meet in NCCL.  A rank without a GPU fails
  // here, and its peers notice it on the mesh instead of waiting in NCCL.
  cudaError_t gpu = cudaSetDevice(ordinal);
  if (gpu == cudaSuccess) gpu = cudaFree(nullptr);  // makes the context
  if (gpu != cudaSuccess) {
    return absl::FailedPreconditionError(
        absl::StrCat("device cuda:", ordinal, ": ", cudaGetErrorString(gpu)));
  }

  // Rank 0 contributes the id, the others one byte to say that they are here.
  ncclUniqueId id = {};
  if (mesh->rank() == 0) {
    H2O_RETURN_IF_ERROR(ToStatus(ncclGetUniqueId(&id), "id", nullptr));
  }
  std::vector<int64_t> bytes(mesh->size(), 1);
  bytes[0] = sizeof(id);
  std::vector<char> words(sizeof(id) + mesh->size() - 1);
  H2O_RETURN_IF_ERROR(mesh->AllGather(&id, bytes, words.data()));
  std::memcpy(&id, words.data(), sizeof(id));

  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 1;
  ncclComm_t comm = nullptr;
  H2O_RETURN_IF_ERROR(ToStatus(
      ncclCommInitRankConfig(&comm, mesh->size(), id, mesh->rank(), &config),
      "connect", nullptr));
  H2O_ASSIGN_OR_RETURN(uint32_t* const aborted, NewAbortWord());
  return std::make_unique<NcclCommunicator>(std::move(mesh), comm, aborted);
}

}  // namespace h2o
