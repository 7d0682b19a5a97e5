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

// From a client to a coordinator.
std::shared_ptr<grpc::Channel> ClientChannel(const std::string& server);

// Makes `builder` listen at `listen` (HOST:PORT) as a coordinator does; `port`
// becomes the port that was bound, or 0, when the server is built.
void ListenAsCoordinator(const std::string& listen, int* port,
                         grpc::ServerBuilder* builder);

}  // namespace h2o
