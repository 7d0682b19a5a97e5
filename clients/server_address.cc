// Checks a server's address, key and certificates, and asks the environment for
// proxies.
#include "clients/server_address.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "absl/strings/str_cat.h"
#include "access/tls_files.h"
#include "base/host_port.h"

namespace h2o {

std::string NoProxy() {
  for (const char* name : {"no_grpc_proxy", "no_proxy", "NO_PROXY"}) {
    if (const char* value = std::getenv(name)) return value;
  }
  return "";
}

absl::Status CheckServer(const std::string& server) {
  const absl::StatusOr<HostPort> address = ParseHostPort(server);
  if (address.ok() && address->port > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--server: ", address.ok() ? absl::string_view("port 0 is no server's")
                                 : address.status().message()));
}

// A header takes printable characters.
absl::Status CheckKey(const std::string& key) {
  const bool plain = std::all_of(key.begin(), key.end(),
                                 [](char c) { return c > ' ' && c <= '~'; });
  if (plain) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "--api-key: a key has printable characters of ASCII and no blanks");
}

absl::StatusOr<TlsMaterial> MaterialOf(const ClientTlsFlags& flags) {
  if (flags.ca.empty()) return TlsMaterial();
  absl::StatusOr<std::unique_ptr<TlsFiles>> files =
      TlsFiles::Load({.certificate = flags.certificate,
                      .key = flags.key,
                      .peer_ca = flags.ca});
  if (!files.ok()) {
    return absl::Status(files.status().code(),
                        absl::StrCat("--tls-ca: ", files.status().message()));
  }
  const auto state = (*files)->state();
  return TlsMaterial{
      .chain = state->chain, .key = state->key, .roots = state->peer_roots};
}

absl::Status NamingServer(const std::string& server,
                          const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat("server ", server, ": ", status.ToString()));
}

}  // namespace h2o
