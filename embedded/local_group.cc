// Runs ranks as threads of this process.
#include "embedded/local_group.h"

#include <deque>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/entropy.h"
#include "base/monitor.h"
#include "base/status_macros.h"
#include "coordinator/rank_results.h"
#include "parallel/solo_communicator.h"
#include "parallel/thread_communicator.h"

namespace h2o {
namespace {

// A rank that waits for another one for longer than this takes it for stuck.
constexpr double kRankTimeoutSeconds = 600;

}  // namespace

// One thread a rank.  Each takes plans from its queue and puts results into
// `results`.
struct LocalGroup::Impl {
  GroupInfo info;
  SteadyClock clock;
  std::vector<std::unique_ptr<ShardRunner>> runners;
  std::vector<std::thread> threads;

  Monitor monitor;  // guards what follows
  std::vector<std::deque<std::shared_ptr<const StepPlan>>> plans;
  RankResults results;
  absl::Status failure;
  bool stopping = false;

  explicit Impl(int tp) : runners(tp), plans(tp), results(tp) {}

  void RankLoop(int rank) {
    ShardRunner& runner = *runners[rank];
    while (true) {
      absl::Status status;
      if (runner.ShouldCollect()) {
        absl::StatusOr<StepResult> result = runner.Collect();
        Monitor::Lock lock(monitor);
        status = result.status();
        if (status.ok()) results.Push(rank, *std::move(result));
      } else if (const auto plan = NextPlan(rank, runner.in_flight() > 0)) {
        status = runner.Launch(*plan);
      } else if (runner.in_flight() == 0) {
        return;  // all plans are done: no peer waits for this rank in a sum
      }
      Monitor::Lock lock(monitor);
      if (!status.ok()) FailLocked(status);
      if (!failure.ok()) return;
    }
  }

  // Null when stopping or, while a plan runs, if none comes within
  // kGlanceSeconds.
  std::shared_ptr<const StepPlan> NextPlan(int rank, bool runs) {
    Monitor::Lock lock(monitor);
    const auto ready = [&] {
      return stopping || !failure.ok() || !plans[rank].empty();
    };
    if (runs) {
      lock.AwaitFor(PlanRunner::kGlanceSeconds, ready);
    } else {
      lock.Await(ready);
    }
    if (plans[rank].empty()) return nullptr;
    std::shared_ptr<const StepPlan> plan = std::move(plans[rank].front());
    plans[rank].pop_front();
    return plan;
  }

  void FailLocked(const absl::Status& status) {
    failure.Update(status);
    for (const std::unique_ptr<ShardRunner>& runner : runners) {
      if (runner != nullptr) runner->Abort(status);
    }
  }
};

absl::StatusOr<std::unique_ptr<LocalGroup>> LocalGroup::Create(
    const ShardOptions& options,
    std::function<void(double fraction)> progress) {
  H2O_RETURN_IF_ERROR(ValidateTensorParallel(options.config, options.size));
  const int tp = options.size;
  auto impl = std::make_unique<Impl>(tp);
  std::vector<std::unique_ptr<Communicator>> communicators;
  if (tp == 1) {
    communicators.push_back(std::make_unique<SoloCommunicator>());
  } else {
    communicators = MakeThreadCommunicators(tp, kRankTimeoutSeconds);
  }
  ShardOptions group = options;
  group.memory_group = absl::StrCat(absl::Hex(RandomBits64()));
  for (int rank = 0; rank < tp; ++rank) {
    std::function<void(double)> of_rank;
    if (progress) {
      of_rank = [&progress, rank, tp](double fraction) {
        progress((rank + fraction) / tp);
      };
    }
    H2O_ASSIGN_OR_RETURN(impl->runners[rank],
                         ShardRunner::Create(OptionsOfRank(group, rank),
                                             std::move(communicators[rank]),
                                             &impl->clock, std::move(of_rank)));
    impl->info.ranks.push_back(impl->runners[rank]->info());
  }
  for (int rank = 0; rank < tp; ++rank) {
    impl->threads.emplace_back([i = impl.get(), rank] { i->RankLoop(rank); });
  }
  return std::unique_ptr<LocalGroup>(new LocalGroup(std::move(impl)));
}

LocalGroup::LocalGroup(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

LocalGroup::~LocalGroup() {
  {
    Monitor::Lock lock(impl_->monitor);
    impl_->stopping = true;
  }
  // Each rank finishes its plans, so none waits for a peer that has left.
  for (std::thread& thread : impl_->threads) thread.join();
}

const GroupInfo& LocalGroup::info() const { return impl_->info; }
absl::Status LocalGroup::status() const {
  Monitor::Lock lock(impl_->monitor);
  return impl_->failure;
}

absl::Status LocalGroup::Submit(const StepPlan& plan) {
  const auto shared = std::make_shared<const StepPlan>(plan);
  Monitor::Lock lock(impl_->monitor);
  H2O_RETURN_IF_ERROR(impl_->failure);
  for (auto& queue : impl_->plans) queue.push_back(shared);
  return absl::OkStatus();
}

absl::StatusOr<GroupResult> LocalGroup::Next() {
  Monitor::Lock lock(impl_->monitor);
  lock.Await([&] { return !impl_->failure.ok() || impl_->results.Complete(); });
  H2O_RETURN_IF_ERROR(impl_->failure);
  return impl_->results.Take();
}

void LocalGroup::Abort(absl::Status reason) {
  Monitor::Lock lock(impl_->monitor);
  impl_->FailLocked(reason);
}

}  // namespace h2o
