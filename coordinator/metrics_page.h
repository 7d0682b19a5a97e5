// The page of /metrics: what contract and dashboards read, from the engine's
// counters.
#pragma once

#include <string>

#include "coordinator/engine_counters.h"
#include "coordinator/worker_group.h"

namespace h2o {

struct MetricsSource {
  std::string model;    // label model, and model_name of the families of vLLM
  std::string version;  // of this program
  bool vllm_names = true;
  EngineCounters counters;
  int groups_ready = 0;
  double queue_age_seconds = 0;  // of the oldest request that waits
  // Of the pools: slots of a page, and slots that each head has over all
  // groups.
  int64_t page_slots = 0;
  int64_t slots_of_a_head = 0;
};

// In Prometheus' text format.
std::string MetricsPage(const MetricsSource& source);

}  // namespace h2o
