// Collectives between threads of one process.
#include "parallel/thread_communicator.h"

#include <sched.h>

#include <atomic>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
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
constexpr int64_t kSmallBytes = 8 << 10;

struct ThreadGroup {
  struct alignas(64) Offer {
    void* data = nullptr;           // the rank's data in this operation
    std::atomic<bool> busy{false};  // it reads or writes the data of others
  };
  struct alignas(64) Inbox {
    char bytes[kSmallBytes];
  };

  ThreadGroup(int size, double timeout_seconds)
      : timeout_seconds(timeout_seconds), offers(size), inboxes(2 * size) {}

  const double timeout_seconds;
  BarrierState barrier = {};
  std::vector<Offer> offers;
  // Two for each rank: the next operation writes into one while the other is
  // still being read.
  std::vector<Inbox> inboxes;
  FailureLatch failure;
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadGroup> group, int rank, int size)
      : group_(std::move(group)),
        rank_(rank),
        size_(size),
        barrier_(&group_->barrier, rank, size,
                 {.timeout_seconds = group_->timeout_seconds}) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  absl::Status AllReduceSum(void* sum, int64_t count, DType dtype) override {
    const Operation operation = Operation::AllReduce(count, dtype);
    float* const data = static_cast<float*>(sum);
    if (count == 0) return group_->failure.Get();
    if (operation.bytes > kSmallBytes) return LargeSum(operation, data, count);
    ++parity_;
    std::memcpy(InboxOf(rank_), data, operation.bytes);
    H2O_RETURN_IF_ERROR(Meet(operation));
    const float* in[kMaxRanks];
    for (int k = 0; k < size_; ++k) {
      in[k] = reinterpret_cast<const float*>(InboxOf(k));
    }
    SumInRankOrder({in, size_t(size_)}, {data}, count);
    return absl::OkStatus();
  }

  absl::Status AllGather(const void* mine, absl::Span<const int64_t> bytes,
                         void* all) override {
    const Operation operation = Operation::AllGather(bytes, size_);
    if (operation.bytes == 0) return group_->failure.Get();
    group_->offers[rank_].data = const_cast<void*>(mine);
    H2O_RETURN_IF_ERROR(Meet(operation));
    H2O_RETURN_IF_ERROR(Visit([&] {
      char* place = static_cast<char*>(all);
      for (int k = 0; k < size_; place += bytes[k++]) {
        const void* theirs = group_->offers[k].data;
        if (bytes[k] > 0 && place != theirs) {
          std::memcpy(place, theirs, bytes[k]);
        }
      }
    }));
    return Meet(operation);
  }

  void Abort(absl::Status reason) override {
    group_->failure.Set(std::move(reason));
    barrier_.Break();
  }

 private:
  char* InboxOf(int rank) {
    return group_->inboxes[2 * rank + (parity_ & 1)].bytes;
  }

  absl::Status LargeSum(const Operation& operation, float* data,
                        int64_t count) {
    group_->offers[rank_].data = data;
    H2O_RETURN_IF_ERROR(Meet(operation));
    H2O_RETURN_IF_ERROR(Visit([&] {
      const Range share = ShardOf(count, rank_, size_);
      float* ranks[kMaxRanks];
      for (int k = 0; k < size_; ++k) {
        ranks[k] = static_cast<float*>(group_->offers[k].data) + share.begin;
      }
      SumInRankOrder({ranks, size_t(size_)}, {ranks, size_t(size_)},
                     share.size());
    }));
    return Meet(operation);
  }

  // Runs `visit`, which reads or writes the data of other ranks, unless one of
  // them may already have returned from the operation.  A rank that fails
  // breaks the barrier and then waits until no rank is busy.  So either it sees
  // that this rank is busy, or this rank sees the broken barrier.
  template <typename Fn>
  absl::Status Visit(Fn&& visit) {
    std::atomic<bool>& busy = group_->offers[rank_].busy;
    busy.store(true, std::memory_order_seq_cst);
    const bool broken = barrier_.broken();
    if (!broken) visit();
    busy.store(false, std::memory_order_seq_cst);
    return broken ? Leave(absl::InternalError("broken without a reason"))
                  : absl::OkStatus();
  }

  absl::Status Leave(absl::Status failure) {
    group_->failure.Set(std::move(failure));
    barrier_.Break();
    for (ThreadGroup::Offer& offer : group_->offers) {
      while (offer.busy.load(std::memory_order_seq_cst)) sched_yield();
    }
    return group_->failure.Get();
  }

  absl::Status Meet(const Operation& operation) {
    switch (barrier_.Meet(operation.tag)) {
      case Barrier::Result::kMet:
        break;
      case Barrier::Result::kTimedOut:
        return Leave(absl::UnavailableError(absl::StrCat(
            operation.ToString(), ": rank ",
            absl::StrJoin(barrier_.Missing(), ", rank "), " did not come to ",
            "rank ", rank_, " within ", group_->timeout_seconds, " s")));
      case Barrier::Result::kBroken:
      case Barrier::Result::kGaveUp:
        return Leave(absl::InternalError("broken without a reason"));
    }
    if (const int k = barrier_.Dissenter(); k >= 0) {
      return Leave(absl::InternalError(
          absl::StrCat("rank ", k, " called another operation than rank ",
                       rank_, ", which is at ", operation.ToString())));
    }
    return absl::OkStatus();
  }

  const std::shared_ptr<ThreadGroup> group_;
  const int rank_;
  const int size_;
  Barrier barrier_;
  uint32_t parity_ = 0;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeThreadCommunicators(
    int size, double timeout_seconds) {
  H2O_CHECK(1 <= size && size <= kMaxRanks) << "size is " << size;
  const auto group = std::make_shared<ThreadGroup>(size, timeout_seconds);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int rank = 0; rank < size; ++rank) {
    ranks.push_back(std::make_unique<ThreadCommunicator>(group, rank, size));
  }
  return ranks;
}

}  // namespace h2o
