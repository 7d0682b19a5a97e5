// The meeting of ranks: spin, then sleep on a futex.
#include "parallel/barrier.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/running_clock.h"
#include "parallel/spin.h"

namespace h2o {
namespace {

// How often a sleeping rank checks that its peers are alive.
constexpr double kTickSeconds = 0.005;

}  // namespace

Barrier::Barrier(BarrierState* state, int rank, int size, Options options)
    : state_(state),
      rank_(rank),
      size_(size),
      options_(std::move(options)),
      spin_seconds_(SpinSeconds(size)) {
  H2O_CHECK(0 <= rank && rank < size && size <= kMaxRanks)
      << "rank " << rank << " of " << size;
}

Barrier::Result Barrier::Meet(uint64_t tag) {
  const uint32_t before = state_->word.load(std::memory_order_acquire);
  if (before & kBrokenBit) return Result::kBroken;
  ++meeting_;
  BarrierState::Arrival& arrival = state_->arrivals[rank_];
  arrival.tags[meeting_ & 1].store(tag, std::memory_order_relaxed);
  arrival.meeting.store(meeting_, std::memory_order_relaxed);
  const uint32_t arrived =
      state_->arrived.fetch_add(1, std::memory_order_acq_rel) + 1;
  if (arrived < static_cast<uint32_t>(size_)) return Await(before);

  // The last rank to arrive wakes the others.  It reads `sleepers` after it has
  // changed `word`; a sleeper raises `sleepers` before the kernel compares
  // `word`.  So one of the two notices the other.
  state_->arrived.store(0, std::memory_order_relaxed);
  const uint32_t old = state_->word.fetch_add(2, std::memory_order_seq_cst);
  if (state_->sleepers.load(std::memory_order_seq_cst) > 0) {
    FutexWakeAll(&state_->word, options_.scope);
  }
  return old & kBrokenBit ? Result::kBroken : Result::kMet;
}

Barrier::Result Barrier::Await(uint32_t before) {
  const auto changed = [&] {
    return state_->word.load(std::memory_order_acquire) != before;
  };
  const SteadyClock steady;
  const double spin_start = steady.Now();
  while (spin_seconds_ > 0 && !changed() &&
         steady.Now() - spin_start < spin_seconds_) {
    SpinOnce(changed);
  }
  // A peer is not silent while this rank does not run.
  const RunningClock clock(&steady);
  double now = clock.Now(), next_tick = now + kTickSeconds;
  const double deadline = now + options_.timeout_seconds;
  while (!changed()) {
    const double until = std::min(
        deadline,
        options_.keep_waiting ? next_tick : now + RunningClock::kLookSeconds);
    state_->sleepers.fetch_add(1, std::memory_order_seq_cst);
    FutexWait(&state_->word, before, std::max(0.0, until - now),
              options_.scope);
    state_->sleepers.fetch_sub(1, std::memory_order_relaxed);
    if (changed()) break;
    now = clock.Now();
    if (now >= deadline) return Result::kTimedOut;
    if (options_.keep_waiting && now >= next_tick) {
      next_tick = now + kTickSeconds;
      // A peer that arrived and then ended has completed the meeting first.
      if (!options_.keep_waiting() && !changed()) return Result::kGaveUp;
    }
  }
  const uint32_t word = state_->word.load(std::memory_order_seq_cst);
  return word & kBrokenBit ? Result::kBroken : Result::kMet;
}

void Barrier::Break() {
  state_->word.fetch_or(kBrokenBit, std::memory_order_seq_cst);
  FutexWakeAll(&state_->word, options_.scope);
}

std::vector<int> Barrier::Missing() const {
  std::vector<int> missing;
  for (int k = 0; k < size_; ++k) {
    if (state_->arrivals[k].meeting.load(std::memory_order_relaxed) !=
        meeting_) {
      missing.push_back(k);
    }
  }
  return missing;
}

int Barrier::Dissenter() const {
  const auto tag = [&](int k) {
    return state_->arrivals[k].tags[meeting_ & 1].load(
        std::memory_order_relaxed);
  };
  for (int k = 0; k < size_; ++k) {
    if (tag(k) != tag(rank_)) return k;
  }
  return -1;
}

}  // namespace h2o
