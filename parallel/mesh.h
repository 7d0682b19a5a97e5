// A Mesh is one TCP connection between every two ranks of a group.
//
// How it forms: every rank binds a MeshListener.  The coordinator, or the
// parent of forked ranks, distributes the addresses.  Then every rank dials all
// lower ranks and accepts the connections of all higher ones:
//
//   caller                                listener
//   call: ranks, size, nonce, challenge ->
//                                       <- challenge, proof of the secret
//   proof of the secret                 ->
//                                       <- welcome
//
// A connection that sends anything else, or nothing, is closed and has no
// effect.  What follows the welcome is neither encrypted nor signed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/unique_fd.h"

namespace h2o {

// A bound and listening TCP socket.
class MeshListener {
 public:
  // `address` is HOST:PORT; HOST is a name, an IPv4 address or an IPv6 address
  // in brackets.  Port 0 picks a free one.
  // Errors: INVALID_ARGUMENT if `address` is malformed, UNAVAILABLE if it
  // cannot be bound.
  static absl::StatusOr<MeshListener> Bind(std::string_view address);

  // HOST:PORT, HOST as given to Bind.  After binding 0.0.0.0 or [::], give
  // peers a reachable host and port() instead.
  const std::string& address() const { return address_; }
  int port() const { return port_; }
  int fd() const { return fd_.get(); }

 private:
  MeshListener(UniqueFd fd, std::string address, int port)
      : fd_(std::move(fd)), address_(std::move(address)), port_(port) {}

  UniqueFd fd_;
  std::string address_;
  int port_;
};

inline constexpr size_t kMeshSecretBytes = 32;

struct MeshOptions {
  int rank = 0;
  int size = 1;

  // HOST:PORT of every rank's listener, by rank.
  std::vector<std::string> addresses;

  // By rank; ranks with equal ids are on one host and may share memory (see
  // ThisHostId).
  std::vector<std::string> host_ids;

  // A number of this formation of the group.  Connections with another nonce
  // are refused, which keeps out ranks of an earlier formation.
  uint64_t nonce = 0;

  // Known to the ranks of this formation alone, of kMeshSecretBytes.
  std::string secret;

  // How long ConnectMesh waits for all ranks.
  double connect_timeout_seconds = 60;

  // How long an operation waits for a silent rank.
  double operation_timeout_seconds = 60;

  // Use the sockets even if all ranks share a host.
  bool tcp_only = false;
};

// The connected sockets: nonblocking, TCP_NODELAY.  Move-only.
struct Mesh {
  std::vector<UniqueFd> sockets;  // by rank; none at this rank's place
  std::vector<std::string> addresses;

  // "rank 2 at 10.0.0.3:4000"
  std::string NameOf(int rank) const;
  // "rank 1 at 10.0.0.2:4000, rank 2 at 10.0.0.3:4000"
  std::string NamesOf(const std::vector<int>& ranks) const;

  // The ranks that have closed their connection or whose host reset it.
  std::vector<int> Gone() const;

  // Ends all connections, so that peers need not wait for a deadline.  Any
  // thread.
  void ShutDown() const;
};

// Errors: INVALID_ARGUMENT if `options` contradict themselves; UNAVAILABLE
// naming the ranks that were not connected in time.
absl::StatusOr<Mesh> FormMesh(MeshListener listener,
                              const MeshOptions& options);

}  // namespace h2o
