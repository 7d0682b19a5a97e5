// The ranks of one copy of the model, in processes of their own: from their
// assignment until the first of them is lost, which ends them all.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "coordinator/blame.h"
#include "coordinator/rank_results.h"
#include "coordinator/remote_workers.h"
#include "coordinator/worker_group.h"
#include "coordinator/worker_stream.h"
#include "proto/worker.pb.h"

namespace h2o {

// What the coordinator knows of a worker when it makes it a rank.
struct RemoteRank {
  std::shared_ptr<WorkerStream> stream;
  h2oserve::worker::Hello hello;
};

// Threads  Submit and Next by one thread; all else by any, without locks held.
class RemoteRanks final : public std::enable_shared_from_this<RemoteRanks> {
 public:
  struct Observer {
    virtual ~Observer() = default;
    // Whether ranks with these weights may serve beside the other groups.
    virtual absl::Status CheckFingerprint(const std::string& fingerprint) = 0;
    virtual void OnRanksReady(std::shared_ptr<RemoteRanks> ranks) = 0;
    // `fault`: none if nobody is to blame.
    virtual void OnRanksOver(std::shared_ptr<RemoteRanks> ranks,
                             const absl::Status& reason,
                             const std::optional<Fault>& fault) = 0;
    // The ranks are about to be let go, in order.
    virtual void OnRanksLeft(std::shared_ptr<RemoteRanks> ranks,
                             const absl::Status& reason) = 0;
  };

  // `group`: the number that people know this copy of the model by.
  RemoteRanks(int group, const RemoteWorkersOptions& options,
              const Clock* clock, std::shared_ptr<Observer> observer,
              std::vector<RemoteRank> ranks);

  int group() const { return group_; }
  std::vector<int64_t> pids() const;         // in the order of ranks
  std::vector<double> last_answers() const;  // see WorkerGroup
  bool ready() const;
  absl::Status status() const;
  // REQUIRES: ready() was true once (both).
  const GroupInfo& info() const { return info_; }
  // True from when the group became ready, also when it is over.
  bool was_ready() const;
  // Who ended the group, if somebody did.
  std::optional<Fault> fault() const;
  const std::string& fingerprint() const { return info_.ranks[0].fingerprint; }

  // Tells every worker its rank.
  void SendAssignments();
  // What the workers' messages say.
  void OnHere(int rank);
  void OnProgress(int rank, float fraction);
  void OnReady(int rank, const std::string& bytes);
  void OnResult(int rank, const std::string& bytes);
  void OnFailed(int rank, const absl::Status& failure);
  void OnLeaving(int rank);
  void OnEnd(int rank);  // of the rank's stream

  // Looks at deadlines.  `draining`: ranks that were told to stop stay.
  void Tick(bool draining);

  // Asks for the group's end, for `reason`.
  void Leave(const absl::Status& reason);

  // As WorkerGroup's.
  absl::Status leaving() const;
  void Release();
  absl::Status Submit(const StepPlan& plan);
  absl::StatusOr<GroupResult> Next();
  // Also forgets results that have come.
  void Abort(const absl::Status& reason);

  // Lets all workers go, without an error.
  void Dismiss();

 private:
  // Ends the group because of what `rank` is or sent, and tells that worker.
  void Refuse(int rank, const absl::Status& why);
  // Ends all streams with the reason, but that of rank `refused` with `why`.
  // The first call counts.  A rank of -1: nobody is to blame.
  void End(const Blame& blame, int refused = -1,
           const absl::Status& why = absl::OkStatus());
  Fault FaultOf(const Blame& blame) const;
  void BecomeReady();

  const int group_;
  const RemoteWorkersOptions options_;
  const RankDeadlines deadlines_;
  const Clock* const clock_;
  const std::shared_ptr<Observer> observer_;
  const std::vector<RemoteRank> ranks_;
  GroupInfo info_;  // constant once ready_

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  struct Logged {  // of a rank's progress
    double when = 0;
    float fraction = 0;
  };
  std::vector<Logged> logged_;
  std::vector<std::optional<RankInfo>> loaded_;
  RanksState state_;
  RankResults results_;
  bool ready_ = false;
  absl::Status leaving_;  // OK: the group stays
  double leaves_since_ = 0;
  absl::Status status_;  // OK until the group is over
  std::optional<Fault> fault_;
};

// The group that an Engine holds: letting it go ends the ranks.
std::unique_ptr<WorkerGroup> GroupOf(std::shared_ptr<RemoteRanks> ranks);

}  // namespace h2o
