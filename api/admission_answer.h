// What a client is told who asks whether a request would be taken.
#pragma once

#include <cstdint>
#include <string>

namespace h2o {

struct AdmissionAnswer {
  bool fits_now = false;           // it would start at once
  double retry_after_seconds = 0;  // estimated; 0 with fits_now
  int64_t pages = 0;               // that it would be charged, over all ranks
  int64_t kv_bytes = 0;            // of these pages
  std::string reason;              // why not now; empty with fits_now
};

}  // namespace h2o
