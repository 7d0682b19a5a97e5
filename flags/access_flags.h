// Flags of keys and certificates.
#pragma once

#include <string>

#include "flags/flags.h"

namespace h2o {

// --tls-cert, --tls-key, --tls-client-ca, --worker-ca, --api-keys,
// --metrics-auth, --require-auth, --no-reflection.  Empty: not given.
void AddAccessFlags(CLI::App* app, AccessFlags* flags);

// --tls-ca, --tls-cert, --tls-key of a program that connects to a server.
struct ClientTlsFlags {
  std::string ca, certificate, key;
};
void AddClientTlsFlags(CLI::App* app, ClientTlsFlags* flags);

}  // namespace h2o
