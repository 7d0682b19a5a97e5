// A Communicator that measures how long its rank is in operations of the group:
// from when the rank arrives until the operation is complete.  Most of that is
// waiting for the slowest rank; the rest moves and adds the numbers.  For
// communicators of host memory, whose calls return when they are complete.
//
// Threads  as Communicator's.
#pragma once

#include <memory>
#include <utility>

#include "base/clock.h"
#include "parallel/communicator.h"

namespace h2o {

class TimedCommunicator final : public Communicator {
 public:
  // `clock` must outlive this.
  TimedCommunicator(std::unique_ptr<Communicator> inner, const Clock* clock)
      : inner_(std::move(inner)), clock_(clock) {}

  // Seconds in sums and gathers since the last call.
  double TakeSeconds() { return std::exchange(seconds_, 0); }

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  void UseStream(Stream stream) override { inner_->UseStream(stream); }
  absl::Status AllReduceSum(void* data, int64_t count, DType dtype) override {
    return Timed([&] { return inner_->AllReduceSum(data, count, dtype); });
  }
  absl::Status AllGather(const void* mine, absl::Span<const int64_t> bytes,
                         void* all) override {
    return Timed([&] { return inner_->AllGather(mine, bytes, all); });
  }
  absl::StatusOr<PeerMemory> MapPeers(int64_t bytes) override {
    return inner_->MapPeers(bytes);
  }
  void Abort(absl::Status reason) override { inner_->Abort(std::move(reason)); }

 private:
  template <typename Operation>
  absl::Status Timed(Operation&& operation) {
    const double arrived = clock_->Now();
    absl::Status status = operation();
    seconds_ += clock_->Now() - arrived;
    return status;
  }

  const std::unique_ptr<Communicator> inner_;
  const Clock* const clock_;
  double seconds_ = 0;
};

}  // namespace h2o
