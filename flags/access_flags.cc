// Adds the flags of keys and certificates, with their help.
#include "flags/access_flags.h"

#include <CLI/CLI.hpp>

namespace h2o {
namespace {

// --tls-key, which comes with the flag of its certificate or not at all.
void AddTlsKeyFlag(CLI::App* app, CLI::Option* certificate, std::string* key) {
  CLI::Option* option =
      app->add_option("--tls-key", *key, "Private key of --tls-cert, PEM")
          ->type_name("FILE");
  certificate->needs(option);
  option->needs(certificate);
}

}  // namespace

void AddAccessFlags(CLI::App* app, AccessFlags* flags) {
  CLI::Option* certificate =
      app->add_option("--tls-cert", flags->certificate,
                      "Certificate of this server with its chain, PEM, for "
                      "gRPC and HTTP; read again when it changes. Default: no "
                      "TLS")
          ->type_name("FILE");
  AddTlsKeyFlag(app, certificate, &flags->key);
  app->add_option("--tls-client-ca", flags->client_ca,
                  "Clients must show a certificate of these CAs, PEM")
      ->needs(certificate)
      ->type_name("FILE");
  app->add_option("--worker-ca", flags->worker_ca,
                  "Only workers with a certificate of these CAs may join, PEM")
      ->needs(certificate)
      ->type_name("FILE");
  app->add_option("--api-keys", flags->api_keys,
                  "Keys of clients, JSON (docs/operations.md); read again when "
                  "it changes. Default: none, and everybody may do all")
      ->type_name("FILE.json");
  app->add_option_function<std::string>(
         "--metrics-auth",
         [flags](const std::string& text) {
           flags->metrics_need_key = text == "key";
         },
         "What /metrics takes where keys exist: key or none")
      ->check(CLI::IsMember({"none", "key"}))
      ->default_str("key");
  app->add_flag("--require-auth", flags->require_auth,
                "Refuse to start where others than this host could connect "
                "without TLS and a key");
  app->add_flag("--no-reflection", flags->no_reflection,
                "Do not describe the gRPC services to clients that ask");
}

void AddClientTlsFlags(CLI::App* app, ClientTlsFlags* flags) {
  CLI::Option* ca =
      app->add_option("--tls-ca", flags->ca,
                      "Use TLS; the server's certificate must be of these CAs, "
                      "PEM. Default: no TLS")
          ->type_name("FILE");
  CLI::Option* certificate =
      app->add_option("--tls-cert", flags->certificate,
                      "Certificate to show to the server, PEM")
          ->needs(ca)
          ->type_name("FILE");
  AddTlsKeyFlag(app, certificate, &flags->key);
}

}  // namespace h2o
