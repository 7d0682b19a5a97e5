// All gRPC channels and servers of the system are made here, so that
// credentials and channel arguments stand in one place.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/server_builder.h>

#include <memory>
#include <string>

namespace h2o {

// The largest message that a coordinator or a worker accepts.
inline constexpr int kMaxMessageBytes = 64 << 20;

// From a worker to its coordinator.  It keeps trying to connect, once a second;
// a coordinator whose host is gone is noticed within half a minute.
std::shared_ptr<grpc::Channel> WorkerChannel(const std::string& coordinator);

// From a client to a coordinator at HOST:PORT.  A server that is frozen, or
// whose host is gone, is noticed within some 20 seconds.  A proxy of the
// environment (grpc_proxy, https_proxy, http_proxy) is used as gRPC does, but
// not where GoesDirect.
std::shared_ptr<grpc::Channel> ClientChannel(const std::string& server,
                                             const std::string& no_proxy);

// Whether no proxy may stand between us and `server`, HOST:PORT: it is on this
// host, or `no_proxy` names it.  That is a list with commas, as curl reads it:
// names that stand for their subdomains too, addresses, or * for all; gRPC's
// own reading knows no * and no spaces.
bool GoesDirect(const std::string& server, const std::string& no_proxy);

// Makes `builder` listen at `listen` (HOST:PORT) as a coordinator does; `port`
// becomes the port that was bound, or 0, when the server is built.
void ListenAsCoordinator(const std::string& listen, int* port,
                         grpc::ServerBuilder* builder);

}  // namespace h2o
