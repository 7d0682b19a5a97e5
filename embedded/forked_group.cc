// The main loop of a rank's process, and the group as the parent sees it.
#include "embedded/forked_group.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/monitor.h"
#include "base/status_macros.h"
#include "coordinator/rank_results.h"
#include "embedded/forked_ranks.h"
#include "embedded/step_pipe.h"
#include "kernels/find_device.h"
#include "model/step_codec.h"
#include "parallel/rank_communicator.h"
#include "worker/shard_runner.h"

namespace h2o {
namespace {

// A rank that is silent for longer than this is taken for stuck.
constexpr double kRankTimeoutSeconds = 600;

// A rank's socket closes before its process ends, because its GPU's memory is
// freed in between.  We wait at most this long to learn how a process ended,
// and before we believe a rank that complains about another rank.
constexpr double kVerdictSeconds = 5;

// At the end the ranks have this long to finish the plans that run.
constexpr double kFarewellSeconds = 10;

// ---- In a rank's process

// Whether a plan, or the end of the socket, can be read at once.  While a plan
// runs (`runs`) it looks for kGlanceSeconds; otherwise it waits.
bool PlanIsThere(int fd, bool runs) {
  constexpr timespec kGlance = {
      .tv_sec = 0,
      .tv_nsec = static_cast<long>(PlanRunner::kGlanceSeconds * 1e9)};
  pollfd one = {fd, POLLIN, 0};
  return ppoll(&one, 1, runs ? &kGlance : nullptr, nullptr) > 0;
}

absl::Status RunPlans(int rank, int fd, ShardRunner* runner) {
  bool ended = false;  // no more plans will come
  while (true) {
    if (runner->ShouldCollect() || (ended && runner->in_flight() > 0)) {
      H2O_ASSIGN_OR_RETURN(StepResult result, runner->Collect());
      // They are large, and the parent uses rank 0's alone.
      if (rank > 0) result.logits.clear();
      H2O_RETURN_IF_ERROR(WriteNews(fd, std::move(result)));
    } else if (ended) {
      return absl::OkStatus();  // no peer waits for this rank in a sum
    } else if (PlanIsThere(fd, runner->in_flight() > 0)) {
      const absl::StatusOr<StepPlan> plan = ReadPlan(fd, runner->info().config);
      ended = absl::IsUnavailable(plan.status());
      if (ended) continue;
      H2O_RETURN_IF_ERROR(plan.status());
      H2O_RETURN_IF_ERROR(runner->Launch(*plan));
    }
  }
}

// Returns OK when no more plans will come, or why the rank cannot go on.
absl::Status LoadAndRun(const ShardOptions& options, int fd,
                        MeshListener listener, MeshOptions mesh) {
  mesh.operation_timeout_seconds = kRankTimeoutSeconds;
  const ShardOptions shard = OptionsOfRank(options, mesh.rank);
  H2O_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> communicator,
                       ConnectRank(std::move(listener), mesh, shard.device));
  static const SteadyClock clock;
  H2O_ASSIGN_OR_RETURN(
      std::unique_ptr<ShardRunner> created,
      ShardRunner::Create(shard, std::move(communicator), &clock,
                          [fd](double fraction) {
                            WriteNews(fd, RankProgress{fraction}).IgnoreError();
                          }));
  // It is never destroyed: that would wait for the GPU, which may hang.
  ShardRunner* const runner = created.release();
  H2O_RETURN_IF_ERROR(WriteNews(fd, runner->info()));
  return RunPlans(mesh.rank, fd, runner);
}

// ---- In the parent's

// "was killed by signal 9 (Killed)", once it is known; leaves the zombie.
std::string HowItEnded(pid_t pid) {
  const SteadyClock clock;
  const double deadline = clock.Now() + kVerdictSeconds;
  while (clock.Now() < deadline) {
    siginfo_t info = {};
    if (waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0) break;
    if (info.si_pid == pid) {
      return info.si_code == CLD_EXITED
                 ? absl::StrCat("ended with exit status ", info.si_status)
                 : absl::StrCat("was killed by signal ", info.si_status, " (",
                                strsignal(info.si_status), ")");
    }
    usleep(2000);
  }
  return "closed its connection";
}

}  // namespace

// One thread for each rank reads its messages; the caller's thread writes
// plans.  Such a write may block while the rank writes a large result.  The
// reader thread takes that result in, so the two ends cannot deadlock.
struct ForkedGroup::Impl {
  const ModelConfig config;
  GroupInfo info;  // constant once the ranks are loaded
  ForkedRanks ranks;
  std::vector<std::thread> readers;

  mutable Monitor monitor;  // guards what follows
  std::vector<double> loaded;
  std::vector<std::optional<RankInfo>> ready;
  RankResults results;
  absl::Status failure;
  int over = 0;  // ranks whose socket has ended
  bool stopping = false;

  Impl(const ModelConfig& model, int tp)
      : config(model), loaded(tp), ready(tp), results(tp) {}
  ~Impl();

  int tp() const { return static_cast<int>(loaded.size()); }
  std::string NameOf(int rank) const {
    return absl::StrCat("rank ", rank, " (pid ", ranks.pids()[rank], ")");
  }

  absl::Status AwaitLoaded(const std::function<void(double)>& progress);

  void Read(int rank);
  // Stores one piece of news.  Returns the rank's failure if it is that.
  absl::Status Take(int rank, RankNews news);
  void ShutDown(int how) const {
    for (const UniqueFd& s : ranks.sockets()) shutdown(s.get(), how);
  }
  void FailLocked(const absl::Status& status) {
    failure.Update(status);
    ranks.Kill();
  }
};

absl::Status ForkedGroup::Impl::AwaitLoaded(
    const std::function<void(double)>& progress) {
  for (int rank = 0; rank < tp(); ++rank) {
    readers.emplace_back([this, rank] { Read(rank); });
  }
  double told = 0;
  Monitor::Lock lock(monitor);
  while (true) {
    double sum = 0;
    bool all = false;
    lock.Await([&] {
      sum = std::accumulate(loaded.begin(), loaded.end(), 0.0);
      all = std::all_of(ready.begin(), ready.end(),
                        [](const auto& r) { return r.has_value(); });
      return !failure.ok() || all || sum != told;
    });
    H2O_RETURN_IF_ERROR(failure);
    if (all) break;
    told = sum;
    lock.Release();
    if (progress) progress(told / tp());
    lock.Acquire();
  }
  for (std::optional<RankInfo>& rank : ready) {
    info.ranks.push_back(*std::move(rank));
  }
  return absl::OkStatus();
}

absl::Status ForkedGroup::Impl::Take(int rank, RankNews news) {
  Monitor::Lock lock(monitor);
  if (const auto* progress = std::get_if<RankProgress>(&news)) {
    loaded[rank] = progress->fraction;
  } else if (auto* of_rank = std::get_if<RankInfo>(&news)) {
    ready[rank] = std::move(*of_rank);
  } else if (auto* result = std::get_if<StepResult>(&news)) {
    results.Push(rank, std::move(*result));
  } else {
    const absl::Status& status = std::get<RankFailure>(news).status;
    return absl::Status(
        status.code(),
        tp() == 1 ? std::string(status.message())
                  : absl::StrCat("rank ", rank, ": ", status.message()));
  }
  return absl::OkStatus();
}

void ForkedGroup::Impl::Read(int rank) {
  absl::Status reason;  // why the rank failed, if it says so
  while (reason.ok()) {
    absl::StatusOr<RankNews> news =
        ReadNews(ranks.sockets()[rank].get(), config);
    if (!news.ok()) break;
    reason = Take(rank, *std::move(news));
  }
  Monitor::Lock lock(monitor);
  if (reason.ok() && !stopping) {
    lock.Release();
    reason = absl::UnavailableError(
        absl::StrCat(NameOf(rank), " ", HowItEnded(ranks.pids()[rank])));
    lock.Acquire();
    ++over;
  } else {
    ++over;
    // UNAVAILABLE is a complaint about another rank.  That rank may have died;
    // its own reader will find out soon.
    const auto known = [&] {
      return stopping || !failure.ok() || over == tp();
    };
    if (absl::IsUnavailable(reason)) lock.AwaitFor(kVerdictSeconds, known);
  }
  if (!stopping) FailLocked(reason);
}

ForkedGroup::Impl::~Impl() {
  {
    Monitor::Lock lock(monitor);
    stopping = true;
    ShutDown(SHUT_WR);
    lock.AwaitFor(kFarewellSeconds,
                  [&] { return over == static_cast<int>(readers.size()); });
  }
  ranks.Kill();
  ShutDown(SHUT_RDWR);
  for (std::thread& reader : readers) reader.join();
}

absl::StatusOr<std::unique_ptr<ForkedGroup>> ForkedGroup::Create(
    const ShardOptions& options,
    std::function<void(double fraction)> progress) {
  H2O_RETURN_IF_ERROR(ValidateTensorParallel(options.config, options.size));
  if (options.device.cuda) {
    const int last = options.device.ordinal + options.size - 1;
    H2O_RETURN_IF_ERROR(FindDevice(absl::StrCat("cuda:", last)).status());
  }
  auto impl = std::make_unique<Impl>(options.config, options.size);
  H2O_RETURN_IF_ERROR(impl->ranks.Fork(
      options.size,
      [&](int fd, MeshListener listener, const MeshOptions& mesh) {
        return LoadAndRun(options, fd, std::move(listener), mesh);
      }));
  H2O_RETURN_IF_ERROR(impl->AwaitLoaded(progress));
  return std::unique_ptr<ForkedGroup>(new ForkedGroup(std::move(impl)));
}

ForkedGroup::ForkedGroup(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ForkedGroup::~ForkedGroup() = default;

const GroupInfo& ForkedGroup::info() const { return impl_->info; }
const std::vector<pid_t>& ForkedGroup::pids() const {
  return impl_->ranks.pids();
}

absl::Status ForkedGroup::status() const {
  Monitor::Lock lock(impl_->monitor);
  return impl_->failure;
}

absl::Status ForkedGroup::Submit(const StepPlan& plan) {
  H2O_RETURN_IF_ERROR(status());
  const std::string bytes = Encode(plan);
  for (int rank = 0; rank < impl_->tp(); ++rank) {
    const absl::Status sent =
        WritePlan(impl_->ranks.sockets()[rank].get(), bytes);
    if (sent.ok()) continue;
    // The rank is gone; its reader finds out how it ended.
    Monitor::Lock lock(impl_->monitor);
    lock.AwaitFor(2 * kVerdictSeconds, [&] { return !impl_->failure.ok(); });
    impl_->FailLocked(absl::Status(
        sent.code(), absl::StrCat(impl_->NameOf(rank), ": ", sent.message())));
    return impl_->failure;
  }
  return absl::OkStatus();
}

absl::StatusOr<GroupResult> ForkedGroup::Next() {
  Monitor::Lock lock(impl_->monitor);
  RankResults& results = impl_->results;
  const bool known = lock.AwaitFor(kRankTimeoutSeconds, [&] {
    return !impl_->failure.ok() || results.Complete();
  });
  if (!known) {
    std::vector<std::string> silent;
    for (int rank = 0; rank < impl_->tp(); ++rank) {
      if (results.Owes(rank)) silent.push_back(impl_->NameOf(rank));
    }
    impl_->FailLocked(absl::UnavailableError(
        absl::StrCat("no answer from ", absl::StrJoin(silent, ", "), " within ",
                     kRankTimeoutSeconds, " s")));
  }
  H2O_RETURN_IF_ERROR(impl_->failure);
  return results.Take();
}

void ForkedGroup::Abort(absl::Status reason) {
  Monitor::Lock lock(impl_->monitor);
  impl_->FailLocked(reason);
}

}  // namespace h2o
