// An HTTP/1.1 server: parses requests, bounds what a client may cost, and
// writes responses, whole or as they come (chunked).  What a path means is the
// handler's.
//
//   socket -> request (bounded in bytes and time) -> HttpHandler -> HttpReply
//
// Threads  the handler runs on one of the server's threads and must not block;
//          it may keep the reply and answer later, from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/host_port.h"
#include "base/tls_material.h"

namespace h2o {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;  // GET, POST, ...; HEAD comes as GET
  std::string path;    // without the query: /v1/models
  std::string query;   // behind '?', undecoded
  HttpHeaders headers;
  std::string body;
  std::string peer;  // the client's address

  // The value of the header, whatever the case of its name; empty: none.
  std::string_view Header(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  HttpHeaders headers;  // beside Content-Type, Content-Length and Date
  bool closes = false;  // the connection, behind it
};

// The answer to one request: either Send, or Begin, any number of Write, End.
//
// Threads  any, one at a time.
class HttpReply {
 public:
  virtual ~HttpReply() = default;

  virtual void Send(HttpResponse response) = 0;

  // Sends the head at once; the body comes in pieces.
  virtual void Begin(HttpResponse head) = 0;
  // Never waits for the client.  Returns false if the client is gone or reads
  // so slowly that the connection was cut; then nothing more is sent.
  virtual bool Write(std::string piece) = 0;
  virtual void End() = 0;

  // `on_gone` is called once, from a thread of the server, if the client leaves
  // or is cut before the answer is complete.
  virtual void OnGone(std::function<void()> on_gone) = 0;

  // After a Wake, `turn` is called on a thread of the server as soon as all
  // that was written before is with the client's system; Wakes before that
  // share one turn.  So what gathers while a client is slow can go out as one
  // piece.
  virtual void OnTurn(std::function<void()> turn) = 0;
  virtual void Wake() = 0;
  // `on_silence` is called on a thread of the server each time nothing has been
  // written for `seconds`.
  virtual void OnSilence(double seconds, std::function<void()> on_silence) = 0;
};

using HttpHandler =
    std::function<void(HttpRequest request, std::shared_ptr<HttpReply> reply)>;

// What is refused before it is a request: a connection, or what came over it.
enum class HttpRefusal : uint8_t { kConnection, kRequest };

struct HttpServerOptions {
  int threads = 2;
  // With so many, a new one takes the place of one that has been silent for
  // more than a second, or is closed at once.
  int max_connections = 4096;
  int64_t max_header_bytes = 16 << 10;
  int64_t max_body_bytes = 4 << 20;
  // A request must have come whole within header_seconds plus body_seconds.
  double header_seconds = 10;
  double body_seconds = 30;
  double idle_seconds = 75;   // between requests of a connection
  double write_seconds = 10;  // a client that takes nothing for so long
                              // is cut
  // Of a reply, in pieces behind the first; more: the client is cut.
  int64_t max_unread_bytes = 1 << 20;
  std::optional<TlsMaterial> tls;   // none: no TLS
  int handshakes_per_second = 200;  // of TLS; more wait
  // Called from threads of the server; may be null.
  std::function<void(HttpRefusal)> on_refused;
};

class HttpServer {
 public:
  // Listens; port 0 takes a free one.  `handler` lives as long as the server.
  // Errors: UNAVAILABLE if the address is taken, INVALID_ARGUMENT if it names
  // no interface of this host.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(
      const HostPort& where, const HttpServerOptions& options,
      HttpHandler handler);

  // Closes all connections.  Replies that are still held do nothing from then
  // on.
  virtual ~HttpServer() = default;

  // Connections that begin later use `tls`.  REQUIRES: it was started with TLS.
  // Errors: INVALID_ARGUMENT, and then nothing changes.
  virtual absl::Status SetTls(const TlsMaterial& tls) = 0;

  virtual const HostPort& address() const = 0;  // with the port that it has
  virtual int num_connections() const = 0;
  virtual int num_replies() const = 0;  // that are not complete
};

}  // namespace h2o
