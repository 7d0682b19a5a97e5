// Adds the flags that say which server a command talks to, and connects.
#include "clients/server_flags.h"

#include <CLI/CLI.hpp>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "clients/cpp/credentials.h"
#include "proto/grpc_log.h"

namespace h2o {

void AddServerFlags(CLI::App* app, const std::string& key_help,
                    ServerFlags* flags) {
  app->add_option("--server", flags->server, "Address of the server")
      ->required()
      ->type_name("HOST:PORT");
  app->add_option("--api-key", flags->api_key,
                  absl::StrCat(key_help,
                               "; better in the variable, which other users "
                               "of this host cannot see"))
      ->envname("H2OSERVE_API_KEY")
      ->type_name("KEY");
  AddClientTlsFlags(app, &flags->tls);
}

ClientOptions OptionsOf(const ServerFlags& flags) {
  ClientOptions options;
  options.server = flags.server;
  options.api_key = flags.api_key;
  options.tls = {.ca = flags.tls.ca,
                 .certificate = flags.tls.certificate,
                 .key = flags.tls.key};
  return options;
}

absl::StatusOr<HttpServerPlace> HttpServerPlaceOf(const std::string& url_flag,
                                                  const std::string& url,
                                                  const std::string& api_key,
                                                  const ClientTlsFlags& tls) {
  const absl::StatusOr<HttpUrl> parsed = ParseHttpUrl(url);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(url_flag, ": ", parsed.status().message()));
  }
  if (!tls.ca.empty() && !parsed->tls) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--tls-ca is for a server of https://, which ", url_flag, " is not"));
  }
  if (const absl::Status key = CheckKey(api_key); !key.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--api-key: ", key.message()));
  }
  HttpServerPlace place = {.url = *parsed, .api_key = api_key};
  H2O_ASSIGN_OR_RETURN(place.tls, ReadTls(tls.ca, tls.certificate, tls.key));
  return place;
}

absl::StatusOr<Client> ConnectTo(const ServerFlags& flags) {
  const Expected<Client> client = Client::Connect(OptionsOf(flags));
  LogForGrpc();  // which Connect has silenced
  if (!client) return StatusOf(client.error());
  return *client;
}

absl::Status StatusOf(const std::optional<Error>& error) {
  if (!error) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(error->code),
                      error->message);
}

absl::Status NamingServer(const std::string& server,
                          const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat("server ", server, ": ", status.ToString()));
}

}  // namespace h2o
