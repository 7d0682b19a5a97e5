// All workers that have dialed in: which of them wait and which are ranks of
// which group.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/limited_log.h"
#include "coordinator/remote_ranks.h"
#include "coordinator/remote_workers.h"
#include "coordinator/worker_stream.h"
#include "proto/worker.grpc.pb.h"

namespace h2o {

// The Workers service.  A worker is a stranger until its Hello is accepted,
// then it waits, then it is a rank.
//
// Threads  every method by any thread.  Locks are taken in this order:
//          WorkerRegistry, RemoteRanks, WorkerStream.
class WorkerRegistry final
    : public h2oserve::worker::Workers::CallbackService,
      public WorkerStream::Observer,
      public RemoteRanks::Observer,
      public std::enable_shared_from_this<WorkerRegistry> {
 public:
  // `clock` must outlive this object and every group.
  WorkerRegistry(const RemoteWorkersOptions& options, const Clock* clock,
                 RemoteWorkers::Observers observers);

  grpc::ServerBidiReactor<h2oserve::worker::WorkerMessage,
                          h2oserve::worker::CoordinatorMessage>*
  Join(grpc::CallbackServerContext* context) override;

  void OnMessage(WorkerStream* stream,
                 const h2oserve::worker::WorkerMessage& message) override;
  void OnEnd(WorkerStream* stream) override;

  absl::Status CheckFingerprint(const std::string& fingerprint) override;
  void OnRanksReady(std::shared_ptr<RemoteRanks> ranks) override;
  void OnRanksOver(std::shared_ptr<RemoteRanks> ranks,
                   const absl::Status& reason,
                   const std::optional<Fault>& fault) override;
  void OnRanksLeft(std::shared_ptr<RemoteRanks> ranks,
                   const absl::Status& reason) override;

  // As RemoteWorkers'.
  int num_ready() const;
  std::string Progress() const;
  void Tick();
  void Drain();
  absl::Status DrainGroup(int number);
  void Shutdown();

 private:
  struct Worker {
    std::shared_ptr<WorkerStream> stream;
    double opened = 0;
    bool refused = false;  // its stream is being closed
    double called = 0;     // when it was last asked whether it is there
    double heard = 0;      // when it last answered; 0: never
    std::optional<h2oserve::worker::Hello> hello;  // once it is accepted
    std::shared_ptr<RemoteRanks> ranks;            // once it is a rank of them
    int rank = 0;

    bool waits() const { return hello && ranks == nullptr; }
  };

  void OnHello(WorkerStream* stream, const h2oserve::worker::Hello& hello);
  void OnHere(WorkerStream* stream);

  // REQUIRES (all): mutex_ is held.
  // Whether the worker can be a rank now.
  bool IsHere(const Worker& worker) const;
  // Asks whether it is there.
  void Call(Worker* worker);
  // Lets a stranger go that says nothing, and a worker that does not answer.
  void LookAt(Worker* worker);
  // Logs `why` and ends the stream with `told`.
  void Refuse(Worker* worker, const std::string& name, const absl::Status& why,
              const absl::Status& told);
  void CloseOldStrangers();
  std::vector<Worker>::iterator Find(const WorkerStream* stream);
  // Its error is for the log alone: a stranger does not learn what it would
  // have to say.
  absl::Status CheckBuild(const h2oserve::worker::Hello& hello) const;
  absl::Status CheckHello(const h2oserve::worker::Hello& hello) const;
  // The build that all workers have; empty while there are none.
  std::string BuildOfOthers() const;
  void Forget(const std::shared_ptr<RemoteRanks>& ranks);
  void FormGroups();
  std::vector<Worker*> TakeMembers();
  int FreeNumber() const;

  const RemoteWorkersOptions options_;
  const Clock* const clock_;
  const RemoteWorkers::Observers observers_;
  const std::string wire_id_;
  LimitedLog refusals_;

  mutable std::mutex mutex_;  // guards what follows
  bool draining_ = false;
  bool shut_down_ = false;
  std::vector<Worker> workers_;  // those with a Hello in the order of theirs
  std::vector<std::shared_ptr<RemoteRanks>> groups_;  // forming or ready
};

}  // namespace h2o
