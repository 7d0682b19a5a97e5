// The Admin service of a server, for the commands that watch or drain it.
//
// Threads  one owner.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "flags/access_flags.h"

namespace CLI {
class App;
}

namespace h2o {

struct AdminFlags {
  std::string server;
  std::string api_key;  // empty: none
  ClientTlsFlags tls;
};

// --server, --api-key and the flags of TLS.
void AddAdminFlags(CLI::App* app, AdminFlags* flags);

class Admin {
 public:
  // Errors: INVALID_ARGUMENT naming the flag that cannot be.
  static absl::StatusOr<std::unique_ptr<Admin>> Connect(
      const AdminFlags& flags);

  virtual ~Admin() = default;

  // Errors (both): the server's, or UNAVAILABLE and DEADLINE_EXCEEDED without
  // an answer.
  virtual absl::Status Drain(int group) = 0;
  // As /v1/status gives it: JSON.
  virtual absl::StatusOr<std::string> Status() = 0;
};

}  // namespace h2o
