// Checks keys, and reads the certificates of a client.
#include "clients/cpp/credentials.h"

#include <algorithm>
#include <memory>

#include "access/tls_files.h"
#include "base/status_macros.h"

namespace h2o {

// A header takes printable characters.
absl::Status CheckKey(const std::string& key) {
  const bool plain = std::all_of(key.begin(), key.end(),
                                 [](char c) { return c > ' ' && c <= '~'; });
  if (plain) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "the API key must have printable characters of ASCII and no blanks");
}

absl::StatusOr<TlsMaterial> ReadTls(const std::string& ca,
                                    const std::string& certificate,
                                    const std::string& key) {
  const bool shows = !certificate.empty();
  if (shows != !key.empty() || (shows && ca.empty())) {
    return absl::InvalidArgumentError(
        "a certificate to show needs its key, and a CA to believe the server "
        "by");
  }
  if (ca.empty()) return TlsMaterial();
  H2O_ASSIGN_OR_RETURN(
      const std::unique_ptr<TlsFiles> files,
      TlsFiles::Load({.certificate = certificate, .key = key, .peer_ca = ca}));
  return files->state()->material();
}

}  // namespace h2o
