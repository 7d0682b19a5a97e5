// What people see of a tenant.
#pragma once

#include <cstdint>
#include <string>

namespace h2o {

struct TenantStatus {
  std::string name;
  int64_t waiting = 0;
  int64_t running = 0;    // with those that pages are gathered for
  int64_t pages = 0;      // held, over all ranks
  int64_t tokens = 0;     // of prompts and answers that have ended
  int64_t allowance = 0;  // tokens that it may ask for now, if they are limited
};

}  // namespace h2o
