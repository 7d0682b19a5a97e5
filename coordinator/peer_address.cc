// Translates between the names of a connection.
#include "coordinator/peer_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include "absl/strings/str_cat.h"

namespace h2o {

bool operator==(const PeerAddress& a, const PeerAddress& b) {
  return a.length == b.length && memcmp(&a.storage, &b.storage, a.length) == 0;
}

std::string PeerAddress::Key() const {
  char text[INET6_ADDRSTRLEN] = "";
  if (get()->sa_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(get());
    inet_ntop(AF_INET, &v4->sin_addr, text, sizeof(text));
    return absl::StrCat(text, " ", ntohs(v4->sin_port));
  }
  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(get());
  if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
    inet_ntop(AF_INET, &v6->sin6_addr.s6_addr[12], text, sizeof(text));
  } else {
    inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text));
  }
  return absl::StrCat(text, " ", ntohs(v6->sin6_port));
}

std::string KeyOfPeer(const std::string& peer) {
  const size_t begin = peer.find(':'), end = peer.rfind(':');
  if (begin == end) return "";
  std::string host = peer.substr(begin + 1, end - begin - 1);
  if (host.starts_with("%5B")) host = host.substr(3);
  if (host.starts_with("[")) host = host.substr(1);
  return absl::StrCat(host.substr(0, host.find_first_of("%]")), " ",
                      peer.substr(end + 1));
}

std::string HostOfPeer(const std::string& peer) {
  const std::string key = KeyOfPeer(peer);
  return key.substr(0, key.find(' '));
}

bool IsConnectedTo(int fd, const PeerAddress& address) {
  PeerAddress now;
  return getpeername(fd, now.get(), &now.length) == 0 && now == address;
}

}  // namespace h2o
