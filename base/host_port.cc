// Reads and writes HOST:PORT.
#include "base/host_port.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace h2o {
namespace {

bool IsIpv6(std::string_view host) {
  return host.find(':') != std::string_view::npos;
}

}  // namespace

std::string HostPort::ToString() const {
  return IsIpv6(host) ? absl::StrCat("[", host, "]:", port)
                      : absl::StrCat(host, ":", port);
}

absl::StatusOr<HostPort> ParseHostPort(std::string_view address) {
  const size_t colon = address.rfind(':');
  HostPort parsed;
  bool right =
      colon != std::string_view::npos &&
      absl::SimpleAtoi(std::string(address.substr(colon + 1)), &parsed.port) &&
      parsed.port >= 0 && parsed.port <= 65535;
  if (right) {
    std::string_view host = address.substr(0, colon);
    const bool brackets = host.starts_with('[') && host.ends_with(']');
    if (brackets) host = host.substr(1, host.size() - 2);
    parsed.host = host;
    right = !host.empty() && (brackets || !IsIpv6(host)) &&
            host.find_first_of("[]") == std::string_view::npos;
  }
  if (right) return parsed;
  return absl::InvalidArgumentError(absl::StrCat(
      "address '", std::string(address),
      "' must be HOST:PORT with a port of 0 to 65535, as 10.0.0.1:4000, "
      "name:4000 or [::1]:4000"));
}

bool IsLoopback(const std::string& host) {
  in_addr v4;
  in6_addr v6;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) {
    return ntohl(v4.s_addr) >> 24 == 127;
  }
  if (inet_pton(AF_INET6, host.c_str(), &v6) == 1) {
    return IN6_IS_ADDR_LOOPBACK(&v6) ||
           (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
  }
  return host == "localhost" || host.ends_with(".localhost");
}

}  // namespace h2o
