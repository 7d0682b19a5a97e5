// Warns of servers that anybody may use.
#include "coordinator/exposure.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/host_port.h"
#include "base/log.h"

namespace h2o {

absl::Status CheckExposure(const std::vector<std::string>& addresses,
                           const Protection& protection) {
  std::vector<std::string> exposed;
  for (const std::string& address : addresses) {
    const absl::StatusOr<HostPort> where = ParseHostPort(address);
    if (!where.ok() || IsLoopback(absl::AsciiStrToLower(where->host))) continue;
    exposed.push_back(address);
  }
  std::vector<std::string> lacks;
  if (!protection.tls) lacks.push_back("TLS (--tls-cert)");
  if (!protection.clients_prove) {
    lacks.push_back("keys (--api-keys) or client certificates");
  }
  if (exposed.empty() || lacks.empty()) return absl::OkStatus();
  const std::string what =
      absl::StrCat("other hosts may reach ", absl::StrJoin(exposed, " and "),
                   ", which has no ", absl::StrJoin(lacks, " and no "));
  if (protection.required) {
    return absl::InvalidArgumentError(absl::StrCat("--require-auth: ", what));
  }
  H2O_LOG(LogLevel::kWarning) << what << " (SECURITY.md)";
  return absl::OkStatus();
}

}  // namespace h2o
