// AdminService is the gRPC door for operators: status, and draining a group.
//
// Threads  gRPC's.
// Errors   those of the options' functions and of the doorkeeper: where keys
//          exist, a key with `admin` is needed.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "coordinator/doorkeeper.h"

namespace grpc {
class ServerBuilder;
}

namespace h2o {

struct AdminServiceOptions {
  std::function<std::string()> status;  // the text of /v1/status
  // NOT_FOUND if there is no group of this number.
  std::function<absl::Status(int group)> drain;
  Doorkeeper* keeper = nullptr;  // null: everybody may; outlives the service
};

class AdminService {
 public:
  explicit AdminService(AdminServiceOptions options);
  ~AdminService();

  // Adds the Admin service to the server that `builder` makes.
  void AddTo(grpc::ServerBuilder* builder);

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace h2o
