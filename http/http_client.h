// An HTTP/1.1 client: one connection, kept between requests, with TLS or
// without.
//
// Threads  one at a time; Abort by any.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/host_port.h"
#include "base/tls_material.h"
#include "http/http_server.h"

namespace h2o {

struct HttpUrl {
  bool tls = false;
  HostPort where;
  std::string path;  // in front of all paths: "/api", or empty
};

// http://HOST[:PORT][/PATH] or https://..; ports 80 and 443 unless it says.
// Errors: INVALID_ARGUMENT naming `url` and what would be right.
absl::StatusOr<HttpUrl> ParseHttpUrl(std::string_view url);

// Adds the header that shows an API key; none for an empty one.
void AddKey(const std::string& key, HttpRequest* request);

struct HttpClientOptions {
  // Of https: whom to believe (empty: the CAs of this host) and what to show.
  TlsMaterial tls;
  double connect_seconds = 10;   // with the handshake of TLS
  double silence_seconds = 600;  // that a server may say nothing while asked
  int64_t max_body_bytes = 256 << 20;
};

class HttpClient {
 public:
  // Connects with the first request.
  // Errors: INVALID_ARGUMENT if OpenSSL cannot use the certificates.
  static absl::StatusOr<std::unique_ptr<HttpClient>> Create(
      const HttpUrl& url, const HttpClientOptions& options);
  virtual ~HttpClient() = default;

  // A body of status 200 goes to `on_piece` as it comes, and is empty in the
  // answer; null: it is in the answer.  A false of `on_piece` closes the
  // connection and ends the request with CANCELLED.
  using OnPiece = std::function<bool(std::string_view piece)>;

  static constexpr double kNoLimit = std::numeric_limits<double>::infinity();

  // Sends the request and waits for its answer, whatever its status.
  // `request.path` and its query are sent as they are.
  // Errors: UNAVAILABLE if the server cannot be reached or leaves,
  // DEADLINE_EXCEEDED if it is silent or has not answered in `most_seconds`,
  // DATA_LOSS if what it says is no HTTP, CANCELLED after Abort.
  virtual absl::StatusOr<HttpResponse> Ask(const HttpRequest& request,
                                           const OnPiece& on_piece = nullptr,
                                           double most_seconds = kNoLimit) = 0;

  // Ends the request that runs, and all later ones.
  virtual void Abort() = 0;
};

}  // namespace h2o
