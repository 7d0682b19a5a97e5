// Adds the flags that say which server a command talks to, and connects.
#include "clients/server_flags.h"

#include <CLI/CLI.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "clients/cpp/credentials.h"
#include "proto/grpc_log.h"

namespace h2o {

void AddCredentialFlags(CLI::App* app, const std::string& key_help,
                        CredentialFlags* flags) {
  app->add_option("--api-key", flags->api_key,
                  absl::StrCat(key_help,
                               "; better in the variable, which other users "
                               "of this host cannot see"))
      ->envname("H2OSERVE_API_KEY")
      ->type_name("KEY");
  AddClientTlsFlags(app, &flags->tls);
}

void AddServerFlags(CLI::App* app, const std::string& key_help,
                    ServerFlags* flags) {
  app->add_option("--server", flags->server, "Address of the server")
      ->required()
      ->type_name("HOST:PORT");
  AddCredentialFlags(app, key_help, &flags->credentials);
}

ClientOptions OptionsOf(const ServerFlags& flags) {
  const ClientTlsFlags& tls = flags.credentials.tls;
  ClientOptions options;
  options.server = flags.server;
  options.api_key = flags.credentials.api_key;
  options.tls = {.ca = tls.ca, .certificate = tls.certificate, .key = tls.key};
  return options;
}

absl::StatusOr<TlsMaterial> ReadCredentials(const CredentialFlags& flags) {
  if (const absl::Status key = CheckKey(flags.api_key); !key.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--api-key: ", key.message()));
  }
  return ReadTls(flags.tls.ca, flags.tls.certificate, flags.tls.key);
}

absl::StatusOr<HttpServerPlace> HttpServerPlaceOf(
    const std::string& url_flag, const std::string& url,
    const CredentialFlags& credentials) {
  const absl::StatusOr<HttpUrl> parsed = ParseHttpUrl(url);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(url_flag, ": ", parsed.status().message()));
  }
  if (!credentials.tls.ca.empty() && !parsed->tls) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--tls-ca is for a server of https://, which ", url_flag, " is not"));
  }
  H2O_ASSIGN_OR_RETURN(TlsMaterial tls, ReadCredentials(credentials));
  return HttpServerPlace{*parsed, std::move(tls), credentials.api_key};
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
