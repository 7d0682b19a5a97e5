// What /v1/status and the Admin service tell of a coordinator: JSON for people
// and programs.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "coordinator/engine_counters.h"
#include "coordinator/fault.h"
#include "coordinator/group_status.h"
#include "coordinator/tenant_status.h"

namespace h2o {

struct StatusSource {
  std::string model;            // the name that clients call the model by
  std::string version, commit;  // of this program
  EngineCounters counters;
  std::vector<GroupStatus> groups;
  std::vector<TenantStatus> tenants;
  std::optional<Fault> last_fault;
  double queue_age_seconds = 0;  // of the oldest request that waits
};

std::string StatusPage(const StatusSource& source);

}  // namespace h2o
