// The worker's door: it dials the coordinator, is given a rank, loads its
// shard, and runs the plans that come until it is let go.
//
// A worker knows nothing of clients and decides nothing.  When something goes
// wrong it tells the coordinator and ends; its supervisor starts a new one.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/model_config.h"
#include "model/model_spec.h"
#include "model/step.h"
#include "worker/plan_runner.h"

namespace h2o {

class LiveCertificates;

// The rank that the coordinator gave this worker.
struct Assignment {
  int group = 0;
  int rank = 0;
  int size = 1;
  ModelSpec model;  // as announced; a worker may have its own path
  std::vector<std::string> mesh_addresses;  // of all ranks, in rank order
  std::vector<std::string> host_ids;
  uint64_t nonce = 0;
  std::string mesh_secret;
  double connect_timeout_seconds = 0;  // of the ranks to each other
  double operation_timeout_seconds = 0;
  int max_sequences = 0;
};

// Loads the shard of `assignment`; `progress` takes the fraction loaded (0..1).
using LoadShard = std::function<absl::StatusOr<std::shared_ptr<PlanRunner>>(
    const Assignment& assignment, std::function<void(double)> progress)>;

// How a worker ended.
enum class WorkerEnd {
  kLeft,             // it was told to
  kDrained,          // its group left in order
  kLetGo,            // the coordinator stopped in order
  kFault,            // its own, or another rank's that was lost
  kCoordinatorLost,  // or never there
  kRefused,          // as a stranger
};

struct WorkerVerdict {
  WorkerEnd end = WorkerEnd::kFault;
  bool joined = false;  // a coordinator had taken it in
  // OK if it was told to leave or let go.  Errors: UNAVAILABLE if there is no
  // coordinator, it is gone, or another rank was lost; what the coordinator
  // said when it refused this worker; those of `load` and of steps.
  absl::Status status;
};

struct WorkerServiceOptions {
  std::string coordinator;  // HOST:PORT
  double connect_timeout_seconds = 60;
  const LiveCertificates* certificates = nullptr;  // null: no TLS

  // Of the handshake; see Hello in worker.proto.
  std::string version, build, device, host_id;
  // HOST:PORT where other ranks reach this one.  Called when the coordinator
  // has answered: only then can its name be resolved for certain, and the way
  // to it shows which of our addresses to give.
  std::function<absl::StatusOr<std::string>()> mesh_address;
  std::string model_path;             // empty: the announced one
  std::optional<ModelConfig> config;  // of model_path

  // Called from another thread when the shard is still busy a few seconds after
  // the coordinator ended the stream.  It should end the process.
  std::function<void(const WorkerVerdict&)> on_stuck;
};

enum class WorkerStage {
  kDialing,
  kWaiting,  // for a rank
  kLoading,
  kServing,  // the shard is loaded, plans may come
};

// Between ServeWorker and the threads that receive signals and tell of health.
struct WorkerControl {
  std::atomic<bool> leave{false};  // set it to leave in agreement with the
                                   // coordinator
  std::atomic<WorkerStage> stage{WorkerStage::kDialing};
};

// Serves until the end.
WorkerVerdict ServeWorker(const WorkerServiceOptions& options,
                          const LoadShard& load, WorkerControl* control);

}  // namespace h2o
