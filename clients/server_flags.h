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

struct ServerFlags {
  std::string server;
  std::string api_key;  // empty: none
  ClientTlsFlags tls;
};

// --server, --api-key and the flags of TLS.  `key_help`: which key.
void AddServerFlags(CLI::App* app, const std::string& key_help,
                    ServerFlags* flags);

inline constexpr char kAdminKeyHelp[] =
    "Key with `admin`, where the server has keys";

ClientOptions OptionsOf(const ServerFlags& flags);

// How a server is reached over HTTP.
struct HttpServerPlace {
  HttpUrl url;
  TlsMaterial tls;      // of https
  std::string api_key;  // empty: none
};

// Errors: INVALID_ARGUMENT naming the flag that is wrong; `url_flag`: that of
// `url`.
absl::StatusOr<HttpServerPlace> HttpServerPlaceOf(const std::string& url_flag,
                                                  const std::string& url,
                                                  const std::string& api_key,
                                                  const ClientTlsFlags& tls);

// Errors: INVALID_ARGUMENT for a flag that cannot be.
absl::StatusOr<Client> ConnectTo(const ServerFlags& flags);

// An error of the server's calls; none: OK.
absl::Status StatusOf(const std::optional<Error>& error);

// An error with the server's address in front; OK stays OK.
absl::Status NamingServer(const std::string& server,
                          const absl::Status& status);

}  // namespace h2o
