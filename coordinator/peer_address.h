// Where a connection comes from, as the system, gRPC and people call it.
#pragma once

#include <sys/socket.h>

#include <string>

namespace h2o {

struct PeerAddress {
  sockaddr_storage storage = {};
  socklen_t length = sizeof(storage);

  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
  const sockaddr* get() const {
    return reinterpret_cast<const sockaddr*>(&storage);
  }
  // "127.0.0.1 5000", "::1 5000": an IPv4 address also where it came to a
  // socket of IPv6.
  std::string Key() const;

  friend bool operator==(const PeerAddress& a, const PeerAddress& b);
};

// The key of what gRPC calls "ipv4:127.0.0.1:5000", "ipv6:%5B::1%5D:5000".
std::string KeyOfPeer(const std::string& peer);

// The host of such a name: "127.0.0.1", "::1".
std::string HostOfPeer(const std::string& peer);

// Whether `fd` is a socket that is connected to `address`.
bool IsConnectedTo(int fd, const PeerAddress& address);

}  // namespace h2o
