// Collectives between processes of one host, through shared memory.
#include "parallel/shm_communicator.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "parallel/barrier.h"
#include "parallel/failure_latch.h"
#include "parallel/operation.h"
#include "parallel/rank_sum.h"
#include "parallel/shard_spec.h"

namespace h2o {
namespace {

// Up to this size it is faster that every rank sums everything than that ranks
// meet a second time.
constexpr int64_t kSmallBytes = 16 << 10;
constexpr int64_t kLargeBytes = 512 << 10;

// Which rank broke the barrier, and why: (cause << 16) | (rank + 1), 0 for
// none.
enum class Cause : uint32_t { kGone = 1, kAborted, kSilent, kOutOfStep };

// The start of the segment; the inboxes follow.
struct SegmentHead {
  uint64_t nonce;
  uint32_t size;
  uint32_t version;
  std::atomic<uint32_t> blame;
  BarrierState barrier;
};
constexpr uint32_t kSegmentVersion = 1;

size_t SegmentBytes(int size) {
  return sizeof(SegmentHead) + size * (2 * kSmallBytes + kLargeBytes) +
         kLargeBytes;
}

absl::Status SystemError(const std::string& what) {
  const std::string message = absl::StrCat(what, ": ", std::strerror(errno));
  return errno == ENOSPC || errno == ENOMEM
             ? absl::ResourceExhaustedError(message)
             : absl::UnavailableError(message);
}

absl::StatusOr<void*> Map(int fd, size_t bytes, const std::string& name) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_POPULATE, fd, 0);
  if (data == MAP_FAILED) return SystemError("mmap of " + name);
  return data;
}

class ShmCommunicator final : public Communicator {
 public:
  ShmCommunicator(ShmSegment segment, Mesh mesh, const MeshOptions& options)
      : segment_(std::move(segment)),
        mesh_(std::move(mesh)),
        rank_(options.rank),
        size_(options.size),
        timeout_seconds_(options.operation_timeout_seconds),
        head_(static_cast<SegmentHead*>(segment_.data())),
        barrier_(&head_->barrier, rank_, size_,
                 {.scope = FutexScope::kProcesses,
                  .timeout_seconds = timeout_seconds_,
                  .keep_waiting = [this] { return mesh_.Gone().empty(); }}) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  absl::Status AllReduceSum(void* sum, int64_t count, DType dtype) override {
    const Operation operation = Operation::AllReduce(count, dtype);
    float* const data = static_cast<float*>(sum);
    if (failure_.failed()) return failure_.Get();
    if (count == 0) return absl::OkStatus();
    if (operation.bytes <= kSmallBytes) {
      return SmallSum(operation, data, count);
    }
    constexpr int64_t kPiece = kLargeBytes / sizeof(float);
    for (int64_t begin = 0; begin < count; begin += kPiece) {
      H2O_RETURN_IF_ERROR(
          LargeSum(operation, data + begin, std::min(kPiece, count - begin)));
    }
    return absl::OkStatus();
  }

  absl::Status AllGather(const void* mine, absl::Span<const int64_t> bytes,
                         void* all) override {
    const Operation operation = Operation::AllGather(bytes, size_);
    if (failure_.failed()) return failure_.Get();
    if (operation.bytes == 0) return absl::OkStatus();
    const int64_t most = *std::max_element(bytes.begin(), bytes.end());
    if (most <= kSmallBytes) {
      ++parity_;
      if (bytes[rank_] > 0) std::memcpy(SmallInbox(rank_), mine, bytes[rank_]);
      H2O_RETURN_IF_ERROR(Meet(operation));
      CopyPiece(bytes, 0, kSmallBytes, mine, all,
                [this](int k) { return SmallInbox(k); });
      return absl::OkStatus();
    }
    for (int64_t begin = 0; begin < most; begin += kLargeBytes) {
      const int64_t n = std::min(kLargeBytes, bytes[rank_] - begin);
      if (n > 0) {
        std::memcpy(LargeInbox(rank_), static_cast<const char*>(mine) + begin,
                    n);
      }
      H2O_RETURN_IF_ERROR(Meet(operation));
      CopyPiece(bytes, begin, kLargeBytes, mine, all,
                [this](int k) { return LargeInbox(k); });
      H2O_RETURN_IF_ERROR(Meet(operation));
    }
    return absl::OkStatus();
  }

  void Abort(absl::Status reason) override {
    failure_.Set(std::move(reason));
    Blame(Cause::kAborted, rank_);
    barrier_.Break();
  }

 private:
  char* SmallInbox(int rank) {
    return reinterpret_cast<char*>(head_ + 1) +
           (2 * rank + (parity_ & 1)) * kSmallBytes;
  }
  char* LargeInbox(int rank) {
    return reinterpret_cast<char*>(head_ + 1) + size_ * 2 * kSmallBytes +
           rank * kLargeBytes;
  }

  // Copies [begin, begin + limit) of every rank's bytes to its place in `all`.
  template <typename InboxFn>
  void CopyPiece(absl::Span<const int64_t> bytes, int64_t begin, int64_t limit,
                 const void* mine, void* all, InboxFn&& inbox) {
    char* place = static_cast<char*>(all);
    for (int k = 0; k < size_; place += bytes[k++]) {
      const int64_t n = std::min(limit, bytes[k] - begin);
      if (n <= 0 || (k == rank_ && place == mine)) continue;
      std::memcpy(place + begin, inbox(k), n);
    }
  }

  absl::Status SmallSum(const Operation& operation, float* data,
                        int64_t count) {
    ++parity_;
    std::memcpy(SmallInbox(rank_), data, operation.bytes);
    H2O_RETURN_IF_ERROR(Meet(operation));
    const float* in[kMaxRanks];
    for (int k = 0; k < size_; ++k) {
      in[k] = reinterpret_cast<const float*>(SmallInbox(k));
    }
    in[rank_] = data;
    SumInRankOrder({in, size_t(size_)}, {data}, count);
    return absl::OkStatus();
  }

  // Rank k sums chunk k of a piece.  The sums have a place of their own,
  // because a rank that is already at the next piece, which is cut differently,
  // fills its inbox while others still copy these sums out.
  absl::Status LargeSum(const Operation& operation, float* data,
                        int64_t count) {
    for (int k = 0; k < size_; ++k) {
      const Range chunk = ShardOf(count, k, size_);
      if (k != rank_) {
        std::memcpy(LargeFloats(rank_) + chunk.begin, data + chunk.begin,
                    chunk.size() * sizeof(float));
      }
    }
    H2O_RETURN_IF_ERROR(Meet(operation));
    const Range mine = ShardOf(count, rank_, size_);
    const float* in[kMaxRanks];
    for (int k = 0; k < size_; ++k) in[k] = LargeFloats(k) + mine.begin;
    in[rank_] = data + mine.begin;
    SumInRankOrder({in, size_t(size_)},
                   {data + mine.begin, Sums() + mine.begin}, mine.size());
    H2O_RETURN_IF_ERROR(Meet(operation));
    for (int k = 0; k < size_; ++k) {
      const Range chunk = ShardOf(count, k, size_);
      if (k != rank_) {
        std::memcpy(data + chunk.begin, Sums() + chunk.begin,
                    chunk.size() * sizeof(float));
      }
    }
    return absl::OkStatus();
  }
  float* LargeFloats(int rank) {
    return reinterpret_cast<float*>(LargeInbox(rank));
  }
  float* Sums() { return LargeFloats(size_); }  // behind the last inbox

  // Only the first blame is kept.
  void Blame(Cause cause, int rank) {
    uint32_t nobody = 0;
    head_->blame.compare_exchange_strong(
        nobody, static_cast<uint32_t>(cause) << 16 | (rank + 1));
  }

  // What another rank has found.  REQUIRES: the barrier is broken.
  absl::Status Explain(const Operation& operation) const {
    const uint32_t blame = head_->blame.load();
    const int rank = static_cast<int>(blame & 0xffff) - 1;
    if (rank < 0 || rank >= size_) {
      return absl::InternalError("barrier broken without a reason");
    }
    const std::string who =
        absl::StrCat(operation.ToString(), ": ", mesh_.NameOf(rank));
    switch (static_cast<Cause>(blame >> 16)) {
      case Cause::kGone:
        return absl::UnavailableError(
            absl::StrCat(who, " closed its connection"));
      case Cause::kAborted:
        return absl::UnavailableError(absl::StrCat(who, " aborted"));
      case Cause::kSilent:
        return absl::UnavailableError(
            absl::StrCat(who, " was silent for ", timeout_seconds_, " s"));
      case Cause::kOutOfStep:
        return absl::InternalError(
            absl::StrCat(who, " called another operation"));
    }
    return absl::InternalError("barrier broken without a reason");
  }

  absl::Status Fail(absl::Status status) {
    failure_.Set(std::move(status));
    barrier_.Break();
    return failure_.Get();
  }

  absl::Status Meet(const Operation& operation) {
    switch (barrier_.Meet(operation.tag)) {
      case Barrier::Result::kMet:
        break;
      case Barrier::Result::kBroken:
        return Fail(Explain(operation));
      case Barrier::Result::kGaveUp: {
        const std::vector<int> gone = mesh_.Gone();
        Blame(Cause::kGone, gone.empty() ? rank_ : gone[0]);
        return Fail(Explain(operation));
      }
      case Barrier::Result::kTimedOut: {
        const std::vector<int> missing = barrier_.Missing();
        Blame(Cause::kSilent, missing.empty() ? rank_ : missing[0]);
        return Fail(absl::UnavailableError(
            absl::StrCat(operation.ToString(), ": ", mesh_.NamesOf(missing),
                         " did not come to rank ", rank_, " within ",
                         timeout_seconds_, " s")));
      }
    }
    if (const int k = barrier_.Dissenter(); k >= 0) {
      Blame(Cause::kOutOfStep, k);
      return Fail(absl::InternalError(
          absl::StrCat(mesh_.NameOf(k), " called another operation than rank ",
                       rank_, ", which is at ", operation.ToString())));
    }
    return absl::OkStatus();
  }

  const ShmSegment segment_;
  const Mesh mesh_;
  const int rank_;
  const int size_;
  const double timeout_seconds_;
  SegmentHead* const head_;
  Barrier barrier_;
  FailureLatch failure_;
  uint32_t parity_ = 0;
};

}  // namespace

absl::StatusOr<ShmSegment> ShmSegment::Create(int size, uint64_t nonce) {
  const std::string name =
      absl::StrFormat("/h2oserve-%016x-%d", nonce, getpid());
  UniqueFd fd(shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
  if (!fd.valid()) return SystemError("shm_open of " + name);
  const size_t bytes = SegmentBytes(size);
  // ftruncate alone does not allocate: a small /dev/shm would run out later.
  const int error = posix_fallocate(fd.get(), 0, bytes);
  if (error != 0) {
    shm_unlink(name.c_str());
    errno = error;
    return SystemError(absl::StrCat(bytes, " bytes of /dev/shm"));
  }
  const auto data = Map(fd.get(), bytes, name);
  if (!data.ok()) {
    shm_unlink(name.c_str());
    return data.status();
  }
  auto* head = new (*data) SegmentHead();
  head->nonce = nonce;
  head->size = size;
  head->version = kSegmentVersion;
  return ShmSegment(name, *data, bytes, true);
}

absl::StatusOr<ShmSegment> ShmSegment::Open(const std::string& name, int size,
                                            uint64_t nonce) {
  UniqueFd fd(shm_open(name.c_str(), O_RDWR, 0));
  if (!fd.valid()) return SystemError("shm_open of " + name);
  const size_t bytes = SegmentBytes(size);
  struct stat found;
  if (fstat(fd.get(), &found) < 0) return SystemError("fstat of " + name);
  if (found.st_size != static_cast<off_t>(bytes)) {
    return absl::UnavailableError(absl::StrCat(name, " has ", found.st_size,
                                               " bytes instead of ", bytes));
  }
  H2O_ASSIGN_OR_RETURN(void* const data, Map(fd.get(), bytes, name));
  ShmSegment segment(name, data, bytes, false);
  const auto* head = static_cast<const SegmentHead*>(data);
  if (head->nonce != nonce || head->size != static_cast<uint32_t>(size) ||
      head->version != kSegmentVersion) {
    return absl::UnavailableError(name + " belongs to another group");
  }
  return segment;
}

ShmSegment::ShmSegment(ShmSegment&& other) noexcept
    : name_(std::move(other.name_)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(other.bytes_),
      linked_(std::exchange(other.linked_, false)) {}

ShmSegment::~ShmSegment() {
  Unlink();
  if (data_ != nullptr) munmap(data_, bytes_);
}

void ShmSegment::Unlink() {
  if (std::exchange(linked_, false)) shm_unlink(name_.c_str());
}

std::unique_ptr<Communicator> MakeShmCommunicator(ShmSegment segment, Mesh mesh,
                                                  const MeshOptions& options) {
  return std::make_unique<ShmCommunicator>(std::move(segment), std::move(mesh),
                                           options);
}

}  // namespace h2o
