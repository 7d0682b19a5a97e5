// Credentials and channel arguments of all gRPC connections.
#include "proto/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <grpcpp/support/channel_arguments.h>

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/host_port.h"

namespace h2o {
namespace {

// Both ends ask each other whether they are there, also while no call runs: a
// peer whose host is gone is noticed within half a minute.
constexpr std::pair<const char*, int> kKeepalive[] = {
    {GRPC_ARG_KEEPALIVE_TIME_MS, 10'000},
    {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000},
    {GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1},
    {GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0},
};

// Clients ask only while they wait for an answer.
constexpr std::pair<const char*, int> kClientKeepalive[] = {
    {GRPC_ARG_KEEPALIVE_TIME_MS, 10'000},
    {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000},
    {GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0},
};

// Who tries again within seconds must not wait for gRPC's own pauses.
constexpr std::pair<const char*, int> kClientReconnect[] = {
    {GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200},
    {GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000},  // also: to connect
    {GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000},
};

// Whether `listed` is `host` or a domain that it lies in.  Both in lower case.
bool Covers(absl::string_view listed, absl::string_view host) {
  if (listed.size() > 1) absl::ConsumePrefix(&listed, ".");
  if (listed.empty() || !absl::ConsumeSuffix(&host, listed)) return false;
  return host.empty() || host.back() == '.';
}

std::shared_ptr<grpc::ChannelCredentials> WorkerCredentials(
    const LiveCertificates* certificates) {
  if (certificates == nullptr) return grpc::InsecureChannelCredentials();
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(certificates->provider());
  options.watch_root_certs();
  if (certificates->has_identity()) options.watch_identity_key_cert_pairs();
  return grpc::experimental::TlsCredentials(options);
}

std::shared_ptr<grpc::ServerCredentials> CoordinatorCredentials(
    const LiveCertificates* certificates) {
  if (certificates == nullptr) return grpc::InsecureServerCredentials();
  grpc::experimental::TlsServerCredentialsOptions options(
      certificates->provider());
  options.watch_identity_key_cert_pairs();
  if (certificates->has_roots()) {
    options.watch_root_certs();
    options.set_cert_request_type(
        certificates->other_end_must_show()
            ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
            : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> ClientCredentials(
    const TlsMaterial& tls) {
  if (tls.roots.empty()) return grpc::InsecureChannelCredentials();
  return grpc::SslCredentials({.pem_root_certs = tls.roots,
                               .pem_private_key = tls.key,
                               .pem_cert_chain = tls.chain});
}

}  // namespace

std::shared_ptr<grpc::Channel> WorkerChannel(
    const std::string& coordinator, const LiveCertificates* certificates) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  for (const auto& [name, value] : kKeepalive) arguments.SetInt(name, value);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // Workers that share a process, as simulated ones do, connect each by itself.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // Never through an http_proxy: workers and coordinator are one system.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(coordinator, WorkerCredentials(certificates),
                                   arguments);
}

std::shared_ptr<grpc::Channel> ClientChannel(const std::string& server,
                                             const std::string& no_proxy,
                                             const TlsMaterial& tls) {
  grpc::ChannelArguments arguments;
  for (const auto& [name, value] : kClientKeepalive) {
    arguments.SetInt(name, value);
  }
  for (const auto& [name, value] : kClientReconnect) {
    arguments.SetInt(name, value);
  }
  if (GoesDirect(server, no_proxy)) {
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  }
  return grpc::CreateCustomChannel(server, ClientCredentials(tls), arguments);
}

bool GoesDirect(const std::string& server, const std::string& no_proxy) {
  const absl::StatusOr<HostPort> address = ParseHostPort(server);
  if (!address.ok()) return true;  // no server that a proxy could reach
  const std::string host = absl::AsciiStrToLower(address->host);
  if (IsLoopback(host)) return true;
  for (const absl::string_view item : absl::StrSplit(no_proxy, ',')) {
    const std::string listed =
        absl::AsciiStrToLower(absl::StripAsciiWhitespace(item));
    if (listed == "*" || Covers(listed, host) || listed == server) return true;
  }
  return false;
}

std::unique_ptr<ConnectionAcceptor> ServeAsCoordinator(
    const ServerLimits& limits, const LiveCertificates* certificates,
    grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(limits.max_message_bytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                              limits.max_streams);
  // A client whose connection says nothing is no client.
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 10'000);
  // A stream's message may begin to come with so many bytes before it is read.
  // Probing for a faster connection's window would raise it.
  builder->AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 64 << 10);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  // gRPC 1.51 has no limit on what a compressed message becomes: four megabytes
  // of it may hold gigabytes.
  for (const grpc_compression_algorithm algorithm :
       {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP}) {
    builder->SetCompressionAlgorithmSupportStatus(algorithm, false);
  }
  for (const auto& [name, value] : kKeepalive) {
    builder->AddChannelArgument(name, value);
  }
  // Peers may ask as often.  By default gRPC hangs up on a peer that pings
  // twice in five minutes.
  builder->AddChannelArgument(
      GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  using Builder = grpc::ServerBuilder::experimental_type;
  return builder->experimental().AddExternalConnectionAcceptor(
      Builder::ExternalConnectionType::FROM_FD,
      CoordinatorCredentials(certificates));
}

void ServeLocalWorkers(const std::string& path, grpc::ServerBuilder* builder) {
  builder->AddListeningPort("unix:" + path, grpc::InsecureServerCredentials());
}

void GiveConnection(int fd, ConnectionAcceptor* acceptor) {
  ConnectionAcceptor::NewConnectionParameters connection;
  connection.listener_fd = -1;
  connection.fd = fd;
  acceptor->HandleNewConnection(&connection);
}

}  // namespace h2o
