// All gRPC channels and servers of the system are made here, so that
// credentials and channel arguments stand in one place.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/server_builder.h>

#include <memory>
#include <string>

#include "base/tls_material.h"
#include "proto/live_certificates.h"

namespace h2o {

// The largest message that a worker accepts from its coordinator.
inline constexpr int kMaxMessageBytes = 64 << 20;

// From a worker to its coordinator.  It keeps trying to connect, once a second;
// a coordinator whose host is gone is noticed within half a minute.
// `certificates`: for TLS; null: none.  They must outlive the channel.
std::shared_ptr<grpc::Channel> WorkerChannel(
    const std::string& coordinator, const LiveCertificates* certificates);

// From a client to a coordinator at HOST:PORT.  A server that is frozen, or
// whose host is gone, is noticed within some 20 seconds.  A proxy of the
// environment (grpc_proxy, https_proxy, http_proxy) is used as gRPC does, but
// not where GoesDirect.  `tls`: without roots there is no TLS.
std::shared_ptr<grpc::Channel> ClientChannel(const std::string& server,
                                             const std::string& no_proxy,
                                             const TlsMaterial& tls = {});

// Whether no proxy may stand between us and `server`, HOST:PORT: it is on this
// host, or `no_proxy` names it.  That is a list with commas, as curl reads it:
// names that stand for their subdomains too, addresses, or * for all; gRPC's
// own reading knows no * and no spaces.
bool GoesDirect(const std::string& server, const std::string& no_proxy);

// What a coordinator grants each connection.
struct ServerLimits {
  int max_message_bytes = 4 << 20;
  int max_streams = 1024;
};

// Makes `builder` a coordinator's.  Its connections are those that the returned
// acceptor is given once the server runs.  `certificates`: for TLS; null: none.
// They must outlive the server.
using ConnectionAcceptor = grpc::experimental::ExternalConnectionAcceptor;
std::unique_ptr<ConnectionAcceptor> ServeAsCoordinator(
    const ServerLimits& limits, const LiveCertificates* certificates,
    grpc::ServerBuilder* builder);

// Also serves at a socket of this host, without TLS: who may open the file may
// connect.
void ServeLocalWorkers(const std::string& path, grpc::ServerBuilder* builder);

// Gives the server a connected socket, which it closes in the end.
void GiveConnection(int fd, ConnectionAcceptor* acceptor);

}  // namespace h2o
