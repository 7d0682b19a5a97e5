// Fuzzes what comes over a connection of HTTP: heads, chunks and what is behind
// them, through a real socket.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "base/check.h"
#include "http/http_server.h"

namespace h2o {
namespace {

std::unique_ptr<HttpServer> Start() {
  HttpServerOptions options;
  options.max_header_bytes = 2048;
  options.max_body_bytes = 4096;
  auto server = HttpServer::Start(
      {"127.0.0.1", 0}, options,
      [](HttpRequest request, std::shared_ptr<HttpReply> reply) {
        H2O_CHECK(request.path.empty() || request.path[0] == '/' ||
                  request.path == "*" || request.method != "GET");
        request.Header("content-type");
        reply->Send({.body = std::move(request.body), .headers = {}});
      });
  H2O_CHECK(server.ok()) << server.status().ToString();
  return *std::move(server);
}

void Run(const uint8_t* data, size_t size) {
  static const std::unique_ptr<HttpServer> server = Start();
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(server->address().port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  H2O_CHECK(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0);
  send(fd, data, size, MSG_NOSIGNAL);
  shutdown(fd, SHUT_WR);
  std::string answer;
  char block[4096];
  for (ssize_t n = 0; (n = recv(fd, block, sizeof(block), 0)) > 0;) {
    answer.append(block, static_cast<size_t>(n));
  }
  // Or its port would be taken for a minute, and some 30,000 runs take them
  // all.
  const linger at_once = {.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  close(fd);
  H2O_CHECK(answer.empty() || answer.starts_with("HTTP/1.1 ")) << answer;
}

}  // namespace
}  // namespace h2o

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  h2o::Run(data, size);
  return 0;
}
