// What a client shows to a server, and whom it believes.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/tls_material.h"

namespace h2o {

// Errors: INVALID_ARGUMENT if no header can carry the key.
absl::Status CheckKey(const std::string& key);

// Reads files in PEM; empty: not given.  Without a CA, material for no TLS.
// Errors: INVALID_ARGUMENT if the files do not go together or cannot be used.
absl::StatusOr<TlsMaterial> ReadTls(const std::string& ca,
                                    const std::string& certificate,
                                    const std::string& key);

}  // namespace h2o
