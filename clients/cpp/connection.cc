// Checks a server's address, key and certificates, and makes its channel.
#include "clients/cpp/connection.h"

#include <algorithm>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "access/tls_files.h"
#include "base/host_port.h"
#include "base/status_macros.h"
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

// A header takes printable characters.
absl::Status CheckKey(const std::string& key) {
  const bool plain = std::all_of(key.begin(), key.end(),
                                 [](char c) { return c > ' ' && c <= '~'; });
  if (plain) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "the API key must have printable characters of ASCII and no blanks");
}

absl::StatusOr<TlsMaterial> MaterialOf(const ClientOptions::Tls& tls) {
  const bool shows = !tls.certificate.empty();
  if (shows != !tls.key.empty() || (shows && tls.ca.empty())) {
    return absl::InvalidArgumentError(
        "a certificate to show needs its key, and a CA to believe the server "
        "by");
  }
  if (tls.ca.empty()) return TlsMaterial();
  H2O_ASSIGN_OR_RETURN(
      const std::unique_ptr<TlsFiles> files,
      TlsFiles::Load(
          {.certificate = tls.certificate, .key = tls.key, .peer_ca = tls.ca}));
  return files->state()->material();
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
  H2O_ASSIGN_OR_RETURN(const TlsMaterial tls, MaterialOf(options.tls));
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
