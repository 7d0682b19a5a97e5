// Opens the sockets that listen.
#include "coordinator/listen_sockets.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/peer_address.h"

namespace h2o {
namespace {

// An unanswered byte ends a connection after this long, as with keepalive.
constexpr unsigned kUserTimeoutMs = 20'000;

struct AddressesDeleter {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};

int PortOf(int fd) {
  PeerAddress address;
  getsockname(fd, address.get(), &address.length);
  return ntohs(reinterpret_cast<sockaddr_in*>(address.get())->sin_port);
}

// Not valid if that fails; errno says why.
UniqueFd ListenAt(const PeerAddress& address, bool only_v6) {
  UniqueFd fd(socket(address.get()->sa_family,
                     SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int one = 1, v6 = only_v6 ? 1 : 0;
  const auto set = [&](int level, int option, const auto& value) {
    setsockopt(fd.get(), level, option, &value, sizeof(value));
  };
  // Connections inherit the options of TCP.
  set(SOL_SOCKET, SO_REUSEADDR, one);
  set(IPPROTO_TCP, TCP_NODELAY, one);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, kUserTimeoutMs);
  if (address.get()->sa_family == AF_INET6) set(IPPROTO_IPV6, IPV6_V6ONLY, v6);
  if (!fd.valid() || bind(fd.get(), address.get(), address.length) != 0 ||
      listen(fd.get(), SOMAXCONN) != 0) {
    const int error = errno;
    fd.Close();
    errno = error;
  }
  return fd;
}

void SetPort(PeerAddress* address, int port) {
  // The port stands at the same place in both families.
  reinterpret_cast<sockaddr_in*>(address->get())->sin_port =
      htons(static_cast<uint16_t>(port));
}

absl::StatusOr<std::vector<PeerAddress>> AddressesOf(const std::string& host) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.c_str(), "0", &hints, &list);
  if (error != 0) return absl::UnavailableError(gai_strerror(error));
  const std::unique_ptr<addrinfo, AddressesDeleter> owner(list);
  std::vector<PeerAddress> addresses;
  for (; list != nullptr; list = list->ai_next) {
    PeerAddress& address = addresses.emplace_back();
    memcpy(&address.storage, list->ai_addr, list->ai_addrlen);
    address.length = list->ai_addrlen;
  }
  return addresses;
}

// All sockets of `where`, and its port.
absl::StatusOr<std::vector<UniqueFd>> BindAll(HostPort* where) {
  const bool wildcard = where->host == "0.0.0.0" || where->host == "::";
  std::vector<std::string> hosts = {where->host};
  if (wildcard) hosts = {"::", "0.0.0.0"};  // :: takes both, where it is there
  std::vector<UniqueFd> listeners;
  absl::Status last = absl::UnavailableError("it has no address");
  for (const std::string& host : hosts) {
    if (wildcard && !listeners.empty()) break;
    absl::StatusOr<std::vector<PeerAddress>> addresses = AddressesOf(host);
    if (!addresses.ok()) {
      last = addresses.status();
      continue;
    }
    for (PeerAddress& address : *addresses) {
      SetPort(&address, where->port);
      UniqueFd fd = ListenAt(address, /*only_v6=*/!wildcard);
      if (fd.valid()) {
        if (where->port == 0) where->port = PortOf(fd.get());
        listeners.push_back(std::move(fd));
        continue;
      }
      const int error = errno;
      last = absl::UnavailableError(strerror(error));
      // A host without IPv6 may still have a name for an address of it.
      if (error != EADDRNOTAVAIL && error != EAFNOSUPPORT) return last;
    }
  }
  if (listeners.empty()) return last;
  return listeners;
}

}  // namespace

absl::StatusOr<std::vector<UniqueFd>> ListenAtAll(HostPort* where) {
  // To gRPC these are other kinds of addresses.
  for (const char* scheme : {"unix", "unix-abstract", "vsock", "external"}) {
    if (where->host == scheme) {
      return absl::InvalidArgumentError(absl::StrCat(
          "address '", where->ToString(),
          "': only TCP is served; it must be HOST:PORT, as 127.0.0.1:50051"));
    }
  }
  const std::string asked = where->ToString();
  absl::StatusOr<std::vector<UniqueFd>> sockets = BindAll(where);
  if (sockets.ok()) return sockets;
  return absl::UnavailableError(absl::StrCat("cannot listen on ", asked, ": ",
                                             sockets.status().message()));
}

}  // namespace h2o
