// Who asks over gRPC.
#pragma once

#include <grpcpp/server_context.h>

#include <string_view>

#include "coordinator/doorkeeper.h"

namespace h2o {

// Valid as long as the call.
inline Visitor VisitorOf(const grpc::ServerContextBase& context,
                         std::string_view method) {
  Visitor visitor = {.peer = context.peer(), .asks_for = method};
  const auto& metadata = context.client_metadata();
  if (const auto found = metadata.find("authorization");
      found != metadata.end()) {
    visitor.authorization = {found->second.data(), found->second.size()};
  }
  return visitor;
}

}  // namespace h2o
