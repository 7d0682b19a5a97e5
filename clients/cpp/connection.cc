// Checks a server's address, key and certificates, and makes its channel.
#include "clients/cpp/connection.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/host_port.h"
#include "base/status_macros.h"
#include "clients/cpp/credentials.h"
#include "proto/channel.h"
#include "proto/retry_after.h"

namespace h2o {
namespace {

constexpr double kMostSeconds = 1e9;

absl::Status CheckServer(const std::string& server) {
  H2O_ASSIGN_OR_RETURN(const HostPort address, ParseHostPort(server));
  if (address.port > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("address '", server, "': no server has port 0"));
}

// Where no proxy is to be used, as gRPC and curl are told.
std::string NoProxy() {
  for (const char* name : {"no_grpc_proxy", "no_proxy", "NO_PROXY"}) {
    if (const char* value = std::getenv(name)) return value;
  }
  return "";
}

}  // namespace

std::chrono::system_clock::time_point DeadlineIn(double seconds) {
  return std::chrono::system_clock::now() +
         std::chrono::duration_cast<std::chrono::system_clock::duration>(
             std::chrono::duration<double>(std::min(seconds, kMostSeconds)));
}

std::optional<double> ToldRetryAfter(const grpc::ClientContext& context) {
  const auto& metadata = context.GetServerTrailingMetadata();
  const auto told = metadata.find(kRetryAfterKey);
  int64_t ms = 0;
  if (told == metadata.end() ||
      !absl::SimpleAtoi(std::string(told->second.data(), told->second.size()),
                        &ms)) {
    return std::nullopt;
  }
  return static_cast<double>(ms) / 1000;
}

absl::StatusOr<std::shared_ptr<Connection>> Connection::Open(
    const ClientOptions& options) {
  H2O_RETURN_IF_ERROR(CheckServer(options.server));
  H2O_RETURN_IF_ERROR(CheckKey(options.api_key));
  // At exit OpenSSL would free locks that gRPC's threads still take, as in a
  // handshake that fails.
  OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, nullptr);
  H2O_ASSIGN_OR_RETURN(
      const TlsMaterial tls,
      ReadTls(options.tls.ca, options.tls.certificate, options.tls.key));
  return std::shared_ptr<Connection>(new Connection(options, tls));
}

Connection::Connection(const ClientOptions& options, const TlsMaterial& tls)
    : api_key_(options.api_key),
      channel_(ClientChannel(options.server, NoProxy(), tls)),
      inference_(h2oserve::v1::Inference::NewStub(channel_)),
      admin_(h2oserve::v1::Admin::NewStub(channel_)),
      last_answer_(SteadyClock().Now()) {}

void Connection::Prepare(
    std::optional<std::chrono::system_clock::time_point> deadline,
    grpc::ClientContext* context) const {
  if (deadline) context->set_deadline(*deadline);
  if (api_key_.empty()) return;
  context->AddMetadata("authorization", absl::StrCat("Bearer ", api_key_));
}

}  // namespace h2o
