// Collectives between hosts, over TCP connections.
#include "parallel/tcp_communicator.h"

#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/running_clock.h"
#include "base/status_macros.h"
#include "parallel/barrier.h"
#include "parallel/failure_latch.h"
#include "parallel/operation.h"
#include "parallel/rank_sum.h"
#include "parallel/shard_spec.h"
#include "parallel/spin.h"

namespace h2o {
namespace {

// Up to this size one step, in which every rank sums everything, is faster than
// two.
constexpr int64_t kSmallBytes = 32 << 10;
// Bytes that a rank receives from each other rank before it sums.
constexpr int64_t kChunkBytes = 256 << 10;

// A peer that ended because another one died closes its connection later than
// that one: wait this long, then name all peers that have closed theirs.
constexpr int kGraceMilliseconds = 20;

// A peer that closes its connection after its part of an operation has either
// ended normally, while the other ranks still work on theirs, or died.  Silence
// of all ranks for this long means that it died.
constexpr double kHungUpSeconds = 0.25;

struct Header {
  uint64_t tag;
  uint32_t sequence;
  uint32_t magic;
};
static_assert(sizeof(Header) == 16);
constexpr uint32_t kMagic = 0x32687261;

// One message each way between this rank and a peer.
struct Transfer {
  Header out_header, in_header;
  const char* out;
  char* in;
  int64_t out_bytes, in_bytes;     // without header
  int64_t sent = 0, received = 0;  // with header

  bool Sent() const { return sent == out_bytes + int64_t{sizeof(Header)}; }
  bool Received() const {
    return received == in_bytes + int64_t{sizeof(Header)};
  }
  bool Done() const { return Sent() && Received(); }
};

// The parts of header and payload that lie behind byte `done`.
int Remaining(Header* header, char* payload, int64_t bytes, int64_t done,
              iovec parts[2]) {
  constexpr int64_t kHeader = sizeof(Header);
  int n = 0;
  if (done < kHeader) {
    parts[n++] = {reinterpret_cast<char*>(header) + done,
                  static_cast<size_t>(kHeader - done)};
  }
  const int64_t skip = std::max<int64_t>(0, done - kHeader);
  if (skip < bytes) {
    parts[n++] = {payload + skip, static_cast<size_t>(bytes - skip)};
  }
  return n;
}

bool WouldBlock() { return errno == EAGAIN || errno == EINTR; }

class TcpCommunicator final : public Communicator {
 public:
  TcpCommunicator(Mesh mesh, const MeshOptions& options)
      : mesh_(std::move(mesh)),
        rank_(options.rank),
        size_(options.size),
        timeout_seconds_(options.operation_timeout_seconds),
        spin_seconds_(SpinSeconds(static_cast<int>(
            std::count(options.host_ids.begin(), options.host_ids.end(),
                       options.host_ids[options.rank])))),
        abort_event_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
        transfers_(size_),
        polls_(size_ + 1),
        received_(static_cast<size_t>(size_) * kChunkBytes / sizeof(float)) {
    H2O_CHECK(abort_event_.valid()) << "eventfd: " << std::strerror(errno);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  absl::Status AllReduceSum(void* sum, int64_t count, DType dtype) override {
    const Operation operation = Operation::AllReduce(count, dtype);
    float* const data = static_cast<float*>(sum);
    if (failure_.failed()) return failure_.Get();
    if (operation.bytes <= kSmallBytes) {
      return count == 0 ? absl::OkStatus() : SmallSum(operation, data, count);
    }
    const int64_t piece = size_ * kChunkBytes / int64_t{sizeof(float)};
    for (int64_t begin = 0; begin < count; begin += piece) {
      H2O_RETURN_IF_ERROR(
          LargeSum(operation, data + begin, std::min(piece, count - begin)));
    }
    return absl::OkStatus();
  }

  absl::Status AllGather(const void* mine, absl::Span<const int64_t> bytes,
                         void* all) override {
    const Operation operation = Operation::AllGather(bytes, size_);
    if (failure_.failed()) return failure_.Get();
    if (operation.bytes == 0) return absl::OkStatus();
    Begin(operation);
    char* place = static_cast<char*>(all);
    for (int k = 0; k < size_; place += bytes[k++]) {
      if (k != rank_) {
        Prepare(k, mine, bytes[rank_], place, bytes[k]);
      } else if (bytes[k] > 0 && place != mine) {
        std::memmove(place, mine, bytes[k]);
      }
    }
    return Exchange(operation);
  }

  void Abort(absl::Status reason) override {
    failure_.Set(std::move(reason));
    const uint64_t one = 1;
    // EAGAIN means that the counter is full, which wakes the reader as well.
    [[maybe_unused]] const ssize_t n =
        write(abort_event_.get(), &one, sizeof(one));
    mesh_.ShutDown();
  }

 private:
  float* ReceivedFrom(int k) {
    return received_.data() + k * (kChunkBytes / sizeof(float));
  }

  absl::Status SmallSum(const Operation& operation, float* data,
                        int64_t count) {
    Begin(operation);
    const float* in[kMaxRanks];
    for (int k = 0; k < size_; ++k) {
      in[k] = k == rank_ ? data : ReceivedFrom(k);
      if (k != rank_) {
        Prepare(k, data, operation.bytes, ReceivedFrom(k), operation.bytes);
      }
    }
    H2O_RETURN_IF_ERROR(Exchange(operation));
    SumInRankOrder({in, size_t(size_)}, {data}, count);
    return absl::OkStatus();
  }

  // Rank k sums chunk k of `data`.
  absl::Status LargeSum(const Operation& operation, float* data,
                        int64_t count) {
    const Range mine = ShardOf(count, rank_, size_);
    float* const sum = data + mine.begin;
    Begin(operation);
    const float* in[kMaxRanks];
    for (int k = 0; k < size_; ++k) {
      in[k] = k == rank_ ? sum : ReceivedFrom(k);
      if (k == rank_) continue;
      const Range theirs = ShardOf(count, k, size_);
      Prepare(k, data + theirs.begin, theirs.size() * 4, ReceivedFrom(k),
              mine.size() * 4);
    }
    H2O_RETURN_IF_ERROR(Exchange(operation));
    SumInRankOrder({in, size_t(size_)}, {sum}, mine.size());

    Begin(operation);
    for (int k = 0; k < size_; ++k) {
      if (k == rank_) continue;
      const Range theirs = ShardOf(count, k, size_);
      Prepare(k, sum, mine.size() * 4, data + theirs.begin, theirs.size() * 4);
    }
    return Exchange(operation);
  }

  void Begin(const Operation& operation) {
    header_ = {operation.tag, sequence_++, kMagic};
  }

  void Prepare(int k, const void* out, int64_t out_bytes, void* in,
               int64_t in_bytes) {
    transfers_[k] = {.out_header = header_,
                     .out = static_cast<const char*>(out),
                     .in = static_cast<char*>(in),
                     .out_bytes = out_bytes,
                     .in_bytes = in_bytes};
  }

  absl::Status Fail(absl::Status status) {
    failure_.Set(std::move(status));
    mesh_.ShutDown();
    return failure_.Get();
  }

  // The ranks for which this one still waits.
  std::vector<int> Awaited() const {
    std::vector<int> ranks;
    for (int k = 0; k < size_; ++k) {
      if (k != rank_ && !transfers_[k].Done()) ranks.push_back(k);
    }
    return ranks;
  }

  absl::Status PeerLost(int k, const Operation& operation) {
    if (failure_.failed()) return Fail(failure_.Get());  // closed by Abort
    poll(nullptr, 0, kGraceMilliseconds);
    std::vector<int> gone = mesh_.Gone();
    if (std::find(gone.begin(), gone.end(), k) == gone.end()) gone.push_back(k);
    std::vector<int> awaited = Awaited();
    std::erase_if(awaited, [&](int r) {
      return std::find(gone.begin(), gone.end(), r) != gone.end();
    });
    std::string message =
        absl::StrCat(operation.ToString(), ": ", mesh_.NamesOf(gone),
                     " closed the connection to rank ", rank_);
    if (!awaited.empty()) {
      absl::StrAppend(&message, ", which still waited for ",
                      mesh_.NamesOf(awaited));
    }
    return Fail(absl::UnavailableError(message));
  }

  // Moves what can be moved to and from rank k without waiting.
  absl::Status Move(int k, const Operation& operation, bool* moved) {
    Transfer& t = transfers_[k];
    const int fd = mesh_.sockets[k].get();
    iovec parts[2];
    msghdr message = {};
    message.msg_iov = parts;
    if (!t.Sent()) {
      message.msg_iovlen = Remaining(&t.out_header, const_cast<char*>(t.out),
                                     t.out_bytes, t.sent, parts);
      const ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0 && !WouldBlock()) return PeerLost(k, operation);
      if (n > 0) {
        t.sent += n;
        *moved = true;
      }
    }
    if (!t.Received()) {
      message.msg_iovlen =
          Remaining(&t.in_header, t.in, t.in_bytes, t.received, parts);
      const ssize_t n = recvmsg(fd, &message, MSG_DONTWAIT);
      if (n == 0 || (n < 0 && !WouldBlock())) return PeerLost(k, operation);
      if (n > 0) {
        const bool had_header = t.received >= int64_t{sizeof(Header)};
        t.received += n;
        *moved = true;
        if (!had_header && t.received >= int64_t{sizeof(Header)} &&
            std::memcmp(&t.in_header, &t.out_header, sizeof(Header)) != 0) {
          return Fail(absl::InternalError(absl::StrCat(
              mesh_.NameOf(k), " is not where rank ", rank_, " is, at ",
              operation.ToString(), " (message ", t.out_header.sequence,
              "); it sent message ", t.in_header.sequence)));
        }
      }
    }
    return absl::OkStatus();
  }

  // Runs all transfers to their end.  The timeout counts from the last byte
  // that moved, without time in which this rank did not run.
  absl::Status Exchange(const Operation& operation) {
    hung_up_ = -1;
    const SteadyClock steady;
    const RunningClock clock(&steady);
    double last = clock.Now();
    while (true) {
      bool moved = false, all_done = true;
      // Starts behind this rank, so that not all ranks begin with rank 0.
      for (int i = 1; i < size_; ++i) {
        const int k = (rank_ + i) % size_;
        if (transfers_[k].Done()) continue;
        H2O_RETURN_IF_ERROR(Move(k, operation, &moved));
        all_done &= transfers_[k].Done();
      }
      if (all_done) return absl::OkStatus();
      if (failure_.failed()) return Fail(failure_.Get());
      const double now = clock.Now(), silence = now - last;
      if (moved) {
        last = now;
      } else if (silence < spin_seconds_) {
        sched_yield();  // each further try costs a system call for each peer
      } else if (silence >= timeout_seconds_) {
        return Fail(absl::UnavailableError(absl::StrCat(
            operation.ToString(), ": ", mesh_.NamesOf(Awaited()),
            " silent to rank ", rank_, " for ", timeout_seconds_, " s")));
      } else if (hung_up_ >= 0 && silence >= kHungUpSeconds) {
        return PeerLost(hung_up_, operation);
      } else {
        const double limit = hung_up_ >= 0
                                 ? std::min(kHungUpSeconds, timeout_seconds_)
                                 : timeout_seconds_;
        Sleep(limit - silence);
      }
    }
  }

  // Waits until a peer can send or receive or closes its connection, until
  // Abort, or for `seconds`.
  void Sleep(double seconds) {
    polls_[size_] = {abort_event_.get(), POLLIN, 0};
    for (int k = 0; k < size_; ++k) {
      const Transfer& t = transfers_[k];
      short events = 0;
      if (!t.Sent()) events |= POLLOUT;
      if (!t.Received()) events |= POLLIN;
      if (t.Done()) events |= POLLRDHUP;
      // poll skips negative descriptors.
      const bool watch = k != rank_ && !(t.Done() && hung_up_ >= 0);
      polls_[k] = {watch ? mesh_.sockets[k].get() : -1, events, 0};
    }
    const int milliseconds = static_cast<int>(
        std::ceil(std::min(seconds, RunningClock::kLookSeconds) * 1e3));
    if (poll(polls_.data(), polls_.size(), milliseconds) <= 0) return;
    for (int k = 0; k < size_; ++k) {
      if (polls_[k].revents != 0 && transfers_[k].Done()) hung_up_ = k;
    }
  }

  const Mesh mesh_;
  const int rank_;
  const int size_;
  const double timeout_seconds_;
  const double spin_seconds_;
  const UniqueFd abort_event_;
  FailureLatch failure_;
  uint32_t sequence_ = 0;
  int hung_up_ = -1;  // a rank that closed its connection after its part
  Header header_ = {};
  std::vector<Transfer> transfers_;  // by rank; this rank's is not used
  std::vector<pollfd> polls_;
  std::vector<float> received_;  // kChunkBytes from each rank
};

}  // namespace

std::unique_ptr<Communicator> MakeTcpCommunicator(Mesh mesh,
                                                  const MeshOptions& options) {
  return std::make_unique<TcpCommunicator>(std::move(mesh), options);
}

}  // namespace h2o
