// How commands reach a server.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/tls_material.h"
#include "flags/access_flags.h"

namespace h2o {

// Errors: INVALID_ARGUMENT naming --server, if it is no HOST:PORT.
absl::Status CheckServer(const std::string& server);

// Errors: INVALID_ARGUMENT naming --api-key, if no header can carry it.
absl::Status CheckKey(const std::string& key);

// Without a CA, material for no TLS.
// Errors: INVALID_ARGUMENT naming --tls-ca and what is wrong with a file.
absl::StatusOr<TlsMaterial> MaterialOf(const ClientTlsFlags& flags);

// An error with the server's address in front; OK stays OK.
absl::Status NamingServer(const std::string& server,
                          const absl::Status& status);

// Where no proxy is to be used, as gRPC and curl are told.
std::string NoProxy();

}  // namespace h2o
