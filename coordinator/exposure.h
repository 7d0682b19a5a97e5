// Looks at where a server listens, and at what protects it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace h2o {

struct Protection {
  bool tls = false;
  bool clients_prove = false;  // who they are, by a key or a certificate
  bool required = false;       // of what others than this host can reach
};

// One warning if others than this host can reach one of `addresses` (HOST:PORT;
// what is none is left out) without what protects it.
// Errors: INVALID_ARGUMENT where protection is required.
absl::Status CheckExposure(const std::vector<std::string>& addresses,
                           const Protection& protection);

}  // namespace h2o
