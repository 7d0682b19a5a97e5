// How commands reach a server.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/tls_material.h"
#include "flags/access_flags.h"
#include "h2oserve/client.h"
#include "http/http_client.h"

namespace CLI {
class App;
}

namespace h2o {

// What a command shows to servers, and whom it believes.
struct CredentialFlags {
  std::string api_key;  // empty: none
  ClientTlsFlags tls;
};

// --api-key and the flags of TLS.  `key_help`: which key.
void AddCredentialFlags(CLI::App* app, const std::string& key_help,
                        CredentialFlags* flags);

inline constexpr char kKeyHelp[] = "Key, where the server takes some";
inline constexpr char kAdminKeyHelp[] =
    "Key with `admin`, where the server has keys";

struct ServerFlags {
  std::string server;
  CredentialFlags credentials;
};

// --server and the flags above.
void AddServerFlags(CLI::App* app, const std::string& key_help,
                    ServerFlags* flags);

ClientOptions OptionsOf(const ServerFlags& flags);

// How a server is reached over HTTP.
struct HttpServerPlace {
  HttpUrl url;
  TlsMaterial tls;      // of https
  std::string api_key;  // empty: none
};

// Errors: INVALID_ARGUMENT for a key that no header can carry, or for
// certificates that do not go together or cannot be read.
absl::StatusOr<TlsMaterial> ReadCredentials(const CredentialFlags& flags);

// Errors: those of ReadCredentials; INVALID_ARGUMENT naming `url_flag`, the
// flag of `url`, if that is wrong.
absl::StatusOr<HttpServerPlace> HttpServerPlaceOf(
    const std::string& url_flag, const std::string& url,
    const CredentialFlags& credentials);

// Errors: INVALID_ARGUMENT for a flag that cannot be.
absl::StatusOr<Client> ConnectTo(const ServerFlags& flags);

// An error of the server's calls; none: OK.
absl::Status StatusOf(const std::optional<Error>& error);

// An error with the server's address in front; OK stays OK.
absl::Status NamingServer(const std::string& server,
                          const absl::Status& status);

}  // namespace h2o
