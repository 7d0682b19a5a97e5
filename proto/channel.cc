// Credentials and channel arguments of all gRPC connections.
#include "proto/channel.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <utility>

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

}  // namespace

std::shared_ptr<grpc::Channel> WorkerChannel(const std::string& coordinator) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  for (const auto& [name, value] : kKeepalive) arguments.SetInt(name, value);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // Never through an http_proxy: workers and coordinator are one system.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(
      coordinator, grpc::InsecureChannelCredentials(), arguments);
}

std::shared_ptr<grpc::Channel> ClientChannel(const std::string& server) {
  return grpc::CreateChannel(server, grpc::InsecureChannelCredentials());
}

void ListenAsCoordinator(const std::string& listen, int* port,
                         grpc::ServerBuilder* builder) {
  builder->AddListeningPort(listen, grpc::InsecureServerCredentials(), port);
  builder->SetMaxReceiveMessageSize(kMaxMessageBytes);
  // Otherwise a second coordinator would share the port in silence.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  for (const auto& [name, value] : kKeepalive) {
    builder->AddChannelArgument(name, value);
  }
  // Peers may ask as often.  By default gRPC hangs up on a peer that pings
  // twice in five minutes.
  builder->AddChannelArgument(
      GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
}

}  // namespace h2o
