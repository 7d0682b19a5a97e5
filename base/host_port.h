// Addresses as people write them: HOST:PORT.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace h2o {

struct HostPort {
  std::string host;  // a name, an IPv4 address, or an IPv6 address as ::1
  int port = 0;      // 0 to 65535

  // HOST:PORT, with an IPv6 address in brackets.
  std::string ToString() const;

  friend bool operator==(const HostPort&, const HostPort&) = default;
};

// An IPv6 address must be in brackets: [::1]:4000.
// Errors: INVALID_ARGUMENT naming `address` and what would be right.
absl::StatusOr<HostPort> ParseHostPort(std::string_view address);

// Whether `host`, in lower case, is this host for sure: 127.0.0.1, ::1,
// localhost.
bool IsLoopback(const std::string& host);

}  // namespace h2o
