// Who asks over gRPC.
#pragma once

#include <grpc/grpc_security_constants.h>
#include <grpcpp/security/auth_context.h>
#include <grpcpp/server_context.h>

#include <string>
#include <string_view>

#include "coordinator/doorkeeper.h"

namespace h2o {

// The certificate that the peer has shown, then those that it sent along.
inline std::string ChainOf(const grpc::ServerContextBase& context) {
  const auto shown = context.auth_context();
  std::string chain;
  for (const char* part : {GRPC_X509_PEM_CERT_PROPERTY_NAME,
                           GRPC_X509_PEM_CERT_CHAIN_PROPERTY_NAME}) {
    for (const grpc::string_ref& pem : shown->FindPropertyValues(part)) {
      chain.append(pem.data(), pem.size());
    }
  }
  return chain;
}

// Valid as long as the call.
inline Visitor VisitorOf(const grpc::ServerContextBase& context,
                         std::string_view method, bool with_certificate) {
  Visitor visitor = {.peer = context.peer(), .asks_for = method};
  const auto& metadata = context.client_metadata();
  if (const auto found = metadata.find("authorization");
      found != metadata.end()) {
    visitor.authorization = {found->second.data(), found->second.size()};
  }
  const bool over_network = !visitor.peer.starts_with("unix:");
  if (over_network) {
    visitor.certificate = with_certificate ? ChainOf(context) : std::string();
  }
  return visitor;
}

}  // namespace h2o
