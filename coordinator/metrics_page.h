// The page of /metrics: what contract and dashboards read, from the engine's
// counters.
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "coordinator/engine_counters.h"
#include "coordinator/fault_log.h"
#include "coordinator/group_status.h"
#include "coordinator/tenant_status.h"

namespace h2o {

struct MetricsSource {
  std::string model;  // label model, and model_name of the families of vLLM
  std::string version, commit;  // of this program
  bool vllm_names = true;
  EngineCounters counters;
  std::vector<GroupStatus> groups;
  std::vector<TenantStatus> tenants;
  std::vector<FaultLog::Count> faults;
  double queue_age_seconds = 0;  // of the oldest request that waits
  int64_t page_slots = 0;        // slots of a page
  // Unix, seconds; for ever, without TLS.
  double certificate_not_after = std::numeric_limits<double>::infinity();
};

// In Prometheus' text format.
std::string MetricsPage(const MetricsSource& source);

}  // namespace h2o
