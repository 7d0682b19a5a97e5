// The HTTP client on Boost.Beast.  A request is a coroutine that the caller's
// thread runs to its end; so each wait has a limit.
#include "http/http_client.h"

#include <algorithm>
#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "http/maybe_tls.h"

namespace h2o {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::awaitable;
using asio::redirect_error;
using asio::use_awaitable;
using asio::ip::tcp;
using boost::system::error_code;

constexpr size_t kBlockBytes = 16 << 10;

using SteadyClock = std::chrono::steady_clock;

// At most a year.
std::chrono::milliseconds Seconds(double seconds) {
  constexpr double kMost = 365 * 86'400;
  return std::chrono::milliseconds(
      static_cast<int64_t>(std::clamp(seconds, 0.0, kMost) * 1000));
}

class BeastClient final : public HttpClient {
 public:
  BeastClient(HttpUrl url, const HttpClientOptions& options,
              std::shared_ptr<MaybeTls::Context> tls)
      : url_(std::move(url)), options_(options), tls_(std::move(tls)) {}

  absl::StatusOr<HttpResponse> Ask(const HttpRequest& request,
                                   const OnPiece& on_piece,
                                   double most_seconds) override {
    absl::StatusOr<HttpResponse> answer = absl::InternalError("not asked");
    deadline_ = SteadyClock::now() + Seconds(most_seconds);
    loop_.restart();
    asio::co_spawn(loop_, AskInTurn(request, on_piece, &answer),
                   [](const std::exception_ptr& fault) {
                     if (fault) std::rethrow_exception(fault);
                   });
    loop_.run();
    return answer;
  }

  void Abort() override {
    aborted_ = true;
    asio::post(loop_, [this] {
      if (connection_) connection_->low().close();
    });
  }

 private:
  using Answer = absl::StatusOr<HttpResponse>;
  using Block = http::response_parser<http::buffer_body>;

  awaitable<void> AskInTurn(const HttpRequest& request, const OnPiece& on_piece,
                            Answer* answer) {
    // A server may have closed the connection since the last request.
    const bool kept = connection_.has_value();
    bool heard = false;
    *answer = co_await AskOnce(request, on_piece, &heard);
    if (!answer->ok()) connection_.reset();
    if (kept && !heard && absl::IsUnavailable(answer->status())) {
      *answer = co_await AskOnce(request, on_piece, &heard);
      if (!answer->ok()) connection_.reset();
    }
    if (aborted_) *answer = absl::CancelledError("aborted");
  }

  absl::Status StatusOf(const error_code& error) const {
    const std::string where = url_.where.ToString();
    if (aborted_) return absl::CancelledError("aborted");
    if (SteadyClock::now() >= deadline_) {
      return absl::DeadlineExceededError("the deadline has passed");
    }
    if (error == beast::error::timeout) {
      return absl::DeadlineExceededError(absl::StrCat(where, " is silent"));
    }
    if (error.category() ==
            http::make_error_code(http::error::bad_version).category() &&
        error != http::error::end_of_stream &&
        error != http::error::partial_message) {
      return absl::DataLossError(
          absl::StrCat("what ", where, " says is no HTTP: ", error.message()));
    }
    return absl::UnavailableError(absl::StrCat(where, ": ", error.message()));
  }

  // Of what comes next.
  void LimitWait(double seconds) {
    connection_->low().expires_at(
        std::min(SteadyClock::now() + Seconds(seconds), deadline_));
  }

  awaitable<absl::Status> Connect() {
    error_code error;
    tcp::resolver resolver(loop_);
    const auto found = co_await resolver.async_resolve(
        url_.where.host, std::to_string(url_.where.port),
        redirect_error(use_awaitable, error));
    if (error) co_return StatusOf(error);
    buffer_.clear();
    connection_.emplace(tcp::socket(loop_), tls_);
    beast::tcp_stream& low = connection_->low();
    LimitWait(options_.connect_seconds);
    co_await low.async_connect(found, redirect_error(use_awaitable, error));
    if (error) co_return StatusOf(error);
    low.socket().set_option(tcp::no_delay(true), error);
    auto* const tls = connection_->tls();
    if (tls == nullptr) co_return absl::OkStatus();
    SSL_set_tlsext_host_name(tls->native_handle(), url_.where.host.c_str());
    SSL_set1_host(tls->native_handle(), url_.where.host.c_str());
    co_await tls->async_handshake(asio::ssl::stream_base::client,
                                  redirect_error(use_awaitable, error));
    if (!error) co_return absl::OkStatus();
    co_return aborted_ || SteadyClock::now() >= deadline_
        ? StatusOf(error)
        : absl::UnavailableError(absl::StrCat(url_.where.ToString(),
                                              ": no TLS: ", error.message()));
  }

  awaitable<absl::Status> Send(const HttpRequest& request) {
    std::string target = absl::StrCat(url_.path, request.path);
    if (!request.query.empty()) absl::StrAppend(&target, "?", request.query);
    http::request<http::string_body> message(
        http::string_to_verb(request.method), target, 11, request.body);
    message.set(http::field::host, url_.where.ToString());
    message.set(http::field::user_agent, "h2oserve");
    if (!request.body.empty()) {
      message.set(http::field::content_type, "application/json");
    }
    for (const auto& [name, value] : request.headers) message.set(name, value);
    message.prepare_payload();
    error_code error;
    LimitWait(options_.silence_seconds);
    co_await http::async_write(*connection_, message,
                               redirect_error(use_awaitable, error));
    co_return error ? StatusOf(error) : absl::OkStatus();
  }

  awaitable<Answer> AskOnce(const HttpRequest& request, const OnPiece& on_piece,
                            bool* heard) {
    if (aborted_) co_return absl::CancelledError("aborted");
    absl::Status status;
    if (!connection_) status = co_await Connect();
    if (status.ok()) status = co_await Send(request);
    if (!status.ok()) co_return status;
    Block parser;
    parser.body_limit(options_.max_body_bytes);
    error_code error;
    LimitWait(options_.silence_seconds);
    co_await http::async_read_header(*connection_, buffer_, parser,
                                     redirect_error(use_awaitable, error));
    *heard = !error || buffer_.size() > 0;
    if (error) co_return StatusOf(error);
    HttpResponse response;
    response.status = parser.get().result_int();
    for (const auto& field : parser.get()) {
      response.headers.emplace_back(std::string(field.name_string()),
                                    std::string(field.value()));
    }
    response.content_type =
        std::string(parser.get()[http::field::content_type]);
    const bool pieces = on_piece != nullptr && response.status == 200;
    status = co_await ReadBody(&parser, [&](std::string_view piece) {
      if (pieces) return on_piece(piece);
      response.body += piece;
      return true;
    });
    if (!status.ok()) co_return status;
    if (!parser.keep_alive()) connection_.reset();
    co_return response;
  }

  template <class Take>
  awaitable<absl::Status> ReadBody(Block* parser, Take take) {
    std::string block(kBlockBytes, '\0');
    while (!parser->is_done()) {
      parser->get().body().data = block.data();
      parser->get().body().size = block.size();
      error_code error;
      LimitWait(options_.silence_seconds);
      co_await http::async_read_some(*connection_, buffer_, *parser,
                                     redirect_error(use_awaitable, error));
      if (error && error != http::error::need_buffer) {
        co_return StatusOf(error);
      }
      const size_t read = block.size() - parser->get().body().size;
      if (read > 0 && !take(std::string_view(block.data(), read))) {
        co_return absl::CancelledError("closed by the reader");
      }
    }
    co_return absl::OkStatus();
  }

  const HttpUrl url_;
  const HttpClientOptions options_;
  const std::shared_ptr<MaybeTls::Context> tls_;  // null: no TLS
  std::atomic<bool> aborted_ = false;
  SteadyClock::time_point deadline_;  // of the request
  asio::io_context loop_{1};
  std::optional<MaybeTls> connection_;  // none: before the first request
  beast::flat_buffer buffer_;
};

// "host" and the port of the scheme, or "host:port".
absl::StatusOr<HostPort> WhereOf(const std::string& authority, int port) {
  const size_t colon = authority.rfind(':');
  const size_t bracket = authority.rfind(']');
  const bool has_port = colon != std::string::npos &&
                        (bracket == std::string::npos || colon > bracket);
  return ParseHostPort(has_port ? authority
                                : absl::StrCat(authority, ":", port));
}

}  // namespace

absl::StatusOr<HttpUrl> ParseHttpUrl(std::string_view url) {
  HttpUrl parsed;
  std::string rest(url);
  for (const auto& [scheme, tls] :
       {std::pair("http://", false), {"https://", true}}) {
    if (!url.starts_with(scheme)) continue;
    parsed.tls = tls;
    rest.erase(0, std::string_view(scheme).size());
  }
  const bool plain = rest.find_first_of("?#@ ") == std::string::npos;
  const size_t slash = rest.find('/');
  if (slash != std::string::npos) {
    parsed.path = rest.substr(slash);
    rest.erase(slash);
  }
  while (parsed.path.ends_with('/')) parsed.path.pop_back();
  auto where = WhereOf(rest, parsed.tls ? 443 : 80);
  if (rest.size() == url.size() || !plain || !where.ok() || where->port == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", std::string(url),
                     "' is no URL of a server, such as http://HOST:8000"));
  }
  parsed.where = *std::move(where);
  return parsed;
}

void AddKey(const std::string& key, HttpRequest* request) {
  if (key.empty()) return;
  request->headers.emplace_back("Authorization", absl::StrCat("Bearer ", key));
}

absl::StatusOr<std::unique_ptr<HttpClient>> HttpClient::Create(
    const HttpUrl& url, const HttpClientOptions& options) {
  std::shared_ptr<MaybeTls::Context> tls;
  if (url.tls) {
    H2O_ASSIGN_OR_RETURN(tls, NewClientTlsContext(options.tls));
  }
  return std::make_unique<BeastClient>(url, options, std::move(tls));
}

}  // namespace h2o
