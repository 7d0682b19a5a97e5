// Binds a socket where a server is to listen, and lets it go.
#include "proto/listen_check.h"

#include <errno.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"

namespace h2o {
namespace {

// Returns 0, or the error number.
int TryToBind(const addrinfo& address) {
  const int fd = socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  const int on = 1;  // as gRPC does
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  const bool bound = bind(fd, address.ai_addr, address.ai_addrlen) == 0;
  const int error = bound ? 0 : errno;
  close(fd);
  return error;
}

}  // namespace

absl::Status CheckCanListen(const HostPort& where) {
  for (const char* scheme : {"unix", "unix-abstract", "vsock", "external"}) {
    if (where.host == scheme) {
      return absl::InvalidArgumentError(absl::StrCat(
          "address '", where.ToString(),
          "': only TCP is served; it must be HOST:PORT, as 127.0.0.1:50051"));
    }
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* first = nullptr;
  const int unknown = getaddrinfo(
      where.host.c_str(), std::to_string(where.port).c_str(), &hints, &first);
  const auto cannot = [&](const char* why) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", where.ToString(), ": ", why));
  };
  if (unknown != 0) return cannot(gai_strerror(unknown));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> found(first,
                                                             freeaddrinfo);
  int error = 0;
  for (const addrinfo* a = found.get(); a != nullptr; a = a->ai_next) {
    error = TryToBind(*a);
    if (error == 0) return absl::OkStatus();
  }
  return cannot(strerror(error));
}

}  // namespace h2o
