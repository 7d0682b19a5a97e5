// RemoteWorkers is where workers dial in.  It forms those that wait into groups
// of `tp`, gives each its rank, and hands a group on as a WorkerGroup once all
// its ranks have loaded.  Fewer than `groups` groups and enough spare workers:
// another group is formed, at any time.
//
//   dialed in -> spare -> member of a forming group -> rank of a ready group
//
// A group that loses a rank, at any stage, is over: all its streams end with
// the reason, its workers exit, and their supervisor starts new ones.
//
// Threads  every method may be called by any thread.  Messages arrive on gRPC's
//          threads.  The observers are called from them, from Tick or from the
//          group's own thread, while no lock is held.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "coordinator/fault.h"
#include "coordinator/worker_group.h"
#include "model/model_config.h"
#include "model/model_spec.h"

namespace grpc {
class ServerContextBase;
class Service;
}  // namespace grpc

namespace h2o {

class WorkerRegistry;

struct RemoteWorkersOptions {
  ModelConfig config;   // what the coordinator reads from model.model
  ModelSpec model;      // announced to the workers
  std::string version;  // a worker of another version is refused
  int tp = 1;
  int groups = 1;
  int max_sequences = 256;

  // A rank that owes a result for longer is lost.  Ranks give up waiting for
  // each other a little earlier, so that they can name the rank they wait for.
  double step_deadline_seconds = 30;

  // A worker that waits or loads and does not answer within this time is let
  // go; ranks of a new group must reach each other within it.
  double formation_timeout_seconds = 20;

  // While a group loads, a rank that says nothing for longer is lost.
  double load_deadline_seconds = 600;
};

struct LostGroup {
  int group = 0;
  std::vector<int64_t> pids;  // of its ranks
  absl::Status reason;
  std::optional<Fault> fault;  // none if it was let go
  bool was_ready = false;      // an Engine has it, or is about to
};

class RemoteWorkers {
 public:
  struct Observers {
    // A group to run steps on.  It may be over at any time, even before this.
    std::function<void(std::unique_ptr<WorkerGroup>)> on_ready;
    // A group is over, ready or not, for another reason than Shutdown.
    std::function<void(const LostGroup& lost)> on_over;
    // A group was drained; its workers are about to be let go.  May be null.
    std::function<void(const LostGroup& left)> on_left;
    // A message of so many bytes came over a connection, by its name in gRPC.
    // May be null.
    std::function<void(const std::string& peer, int64_t bytes)> on_message;
    // Whether who calls may join at all; null: everybody.
    std::function<absl::Status(const grpc::ServerContextBase& call)> may_join;
    // A worker was refused after it had said Hello.  May be null.
    std::function<void()> on_refused;
  };

  // `clock` must outlive this object and every group.
  RemoteWorkers(const RemoteWorkersOptions& options, const Clock* clock,
                Observers observers);

  // REQUIRES: the gRPC server that serves service() has been shut down.
  ~RemoteWorkers();

  // The Workers service, for the server's builder.
  grpc::Service* service();

  // Groups that are ready and have lost no rank.
  int num_ready() const;

  // For people, while no group is ready: "1 of 2 workers have dialed in".
  std::string Progress() const;

  // Looks at deadlines.  The owner calls it about ten times a second.
  void Tick();

  // The coordinator drains: workers that were told to stop stay until Shutdown.
  void Drain();

  // Asks for the end of a group (WorkerGroup::leaving).  Errors: NOT_FOUND if
  // there is none with this number.
  absl::Status DrainGroup(int number);

  // Lets all workers go: they exit with 0.  New ones are turned away.
  void Shutdown();

 private:
  const std::shared_ptr<WorkerRegistry> registry_;
};

}  // namespace h2o
