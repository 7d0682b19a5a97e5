// Forwards the calls of RemoteWorkers to the WorkerRegistry, which does the
// work.
#include "coordinator/remote_workers.h"

#include <utility>

#include "coordinator/worker_registry.h"

namespace h2o {

RemoteWorkers::RemoteWorkers(const RemoteWorkersOptions& options,
                             const Clock* clock, Observers observers)
    : registry_(std::make_shared<WorkerRegistry>(options, clock,
                                                 std::move(observers))) {}

RemoteWorkers::~RemoteWorkers() { registry_->Shutdown(); }

grpc::Service* RemoteWorkers::service() { return registry_.get(); }
int RemoteWorkers::num_ready() const { return registry_->num_ready(); }
std::string RemoteWorkers::Progress() const { return registry_->Progress(); }
void RemoteWorkers::Tick() { registry_->Tick(); }
void RemoteWorkers::Drain() { registry_->Drain(); }
absl::Status RemoteWorkers::DrainGroup(int number) {
  return registry_->DrainGroup(number);
}
void RemoteWorkers::Shutdown() { registry_->Shutdown(); }

}  // namespace h2o
