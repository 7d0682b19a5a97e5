// The HTTP server on Boost.Beast: one coroutine for each connection. Everything
// of Boost is in this file.
#include "http/http_server.h"

#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
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

// Small, so that an unread reply is noticed here and not in the kernel.
constexpr int kSendBufferBytes = 64 << 10;
// How long the acceptor rests when the process has no descriptor left.
constexpr auto kAcceptPause = std::chrono::milliseconds(100);
// How often a client that has sent something more is looked at.
constexpr auto kGoneLook = std::chrono::milliseconds(500);
// A connection may be silent for as long before another takes its place.
constexpr auto kSilent = std::chrono::seconds(1);
// For the last words of TLS, and for the rest of a refused request.
constexpr double kFarewellSeconds = 1;
constexpr int64_t kLingerBytes = 64 << 20;
constexpr size_t kLingerBlock = 16 << 10;

std::chrono::milliseconds Seconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

using Head = http::response<http::empty_body>;

// What has been written of a reply and is not sent yet.  Held by the handler's
// side and by the connection.
class Reply final : public HttpReply,
                    public std::enable_shared_from_this<Reply> {
 public:
  // `wake`: of the connection, which waits for it and detaches the reply before
  // it is gone.
  Reply(asio::steady_timer* wake, int64_t max_unread_bytes)
      : wake_(wake), max_unread_bytes_(max_unread_bytes) {
    wake_->expires_at(asio::steady_timer::time_point::max());
  }

  void Send(HttpResponse response) override {
    std::lock_guard lock(mutex_);
    whole_ = true;
    ended_ = true;
    head_ = std::move(response);
    WakeUp();
  }
  void Begin(HttpResponse head) override {
    std::lock_guard lock(mutex_);
    head_ = std::move(head);
    WakeUp();
  }
  bool Write(std::string piece) override {
    std::lock_guard lock(mutex_);
    if (gone_) return false;
    const bool is_first = unread_ == 0;  // one may have any size
    unread_ += static_cast<int64_t>(piece.size());
    if (!is_first && unread_ > max_unread_bytes_) {
      cut_ = true;
      pieces_.clear();
    } else {
      pieces_.push_back(std::move(piece));
    }
    WakeUp();
    return !cut_;
  }
  void End() override {
    std::lock_guard lock(mutex_);
    ended_ = true;
    WakeUp();
  }
  void OnGone(std::function<void()> on_gone) override {
    {
      std::lock_guard lock(mutex_);
      if (!gone_) {
        on_gone_ = std::move(on_gone);
        return;
      }
    }
    on_gone();
  }

  void OnTurn(std::function<void()> turn) override {
    auto shared =
        std::make_shared<const std::function<void()>>(std::move(turn));
    std::lock_guard lock(mutex_);
    turn_.swap(shared);
  }
  void Wake() override {
    std::lock_guard lock(mutex_);
    if (std::exchange(woken_, true)) return;
    WakeUp();
  }
  void OnSilence(double seconds, std::function<void()> on_silence) override {
    std::lock_guard lock(mutex_);
    silence_ = Seconds(seconds);
    on_silence_ = std::move(on_silence);
    WakeUp();
  }

  // The connection's side, on its strand.

  // Waits until there is something to do.
  awaitable<void> Wait() {
    Time silent_since = asio::steady_timer::clock_type::now();
    while (!TakeTurn()) {
      const Time until = SilentUntil(silent_since);
      error_code ignored;
      wake_->expires_at(until);
      co_await wake_->async_wait(redirect_error(use_awaitable, ignored));
      const Time now = asio::steady_timer::clock_type::now();
      if (now < until) continue;
      silent_since = now;
      BreakSilence();
    }
  }
  struct Due {
    std::optional<HttpResponse> head;
    std::string body;
    bool whole = false, ended = false, broken = false;
  };
  Due Take() {
    std::lock_guard lock(mutex_);
    Due due;
    due.head = std::exchange(head_, std::nullopt);
    for (const std::string& piece : pieces_) due.body += piece;
    pieces_.clear();
    unread_ = 0;
    due.whole = whole_;
    due.ended = ended_;
    due.broken = cut_ || gone_;
    return due;
  }
  // The client is gone, or the connection ends for another reason.
  void Lose() {
    std::function<void()> on_gone;
    {
      std::lock_guard lock(mutex_);
      if (gone_ || complete_) return;
      gone_ = true;
      on_gone = std::exchange(on_gone_, nullptr);
      WakeUp();
    }
    if (on_gone) on_gone();
  }
  void Complete() {
    std::lock_guard lock(mutex_);
    complete_ = true;
    on_gone_ = nullptr;
  }
  // The connection ends; nothing more is sent.
  void Detach() {
    // Destroyed without the lock.
    std::shared_ptr<const std::function<void()>> turn;
    std::function<void()> on_silence, on_gone;
    std::lock_guard lock(mutex_);
    wake_ = nullptr;
    gone_ = true;
    turn = std::exchange(turn_, nullptr);
    on_silence = std::exchange(on_silence_, nullptr);
    on_gone = std::exchange(on_gone_, nullptr);
  }

 private:
  using Time = asio::steady_timer::time_point;

  // Does what the handler wants to do once nothing is left to write.  Returns
  // whether there is something to do now; if not, the next WakeUp tells.
  bool TakeTurn() {
    std::unique_lock lock(mutex_);
    while (!IsReady() && std::exchange(woken_, false)) {
      const auto turn = turn_;
      lock.unlock();
      if (turn) (*turn)();
      lock.lock();
    }
    waits_ = !IsReady();
    return !waits_;
  }
  // REQUIRES: mutex_ is held.
  bool IsReady() const {
    return head_ || !pieces_.empty() || ended_ || cut_ || gone_;
  }
  Time SilentUntil(Time since) {
    std::lock_guard lock(mutex_);
    return on_silence_ ? since + silence_ : Time::max();
  }
  void BreakSilence() {
    std::function<void()> on_silence;
    {
      std::lock_guard lock(mutex_);
      if (gone_) return;
      on_silence = on_silence_;
    }
    if (on_silence) on_silence();
  }
  // REQUIRES: mutex_ is held.
  void WakeUp() {
    if (wake_ == nullptr || !std::exchange(waits_, false)) return;
    asio::post(wake_->get_executor(),
               [self = shared_from_this()] { self->CancelWait(); });
  }
  void CancelWait() {
    std::lock_guard lock(mutex_);
    if (wake_ != nullptr) wake_->cancel();
  }

  asio::steady_timer* wake_;  // changed by the connection, under mutex_
  const int64_t max_unread_bytes_;

  std::mutex mutex_;  // guards what follows
  std::optional<HttpResponse> head_;
  std::deque<std::string> pieces_;
  int64_t unread_ = 0;
  bool whole_ = false, ended_ = false, cut_ = false, gone_ = false;
  bool complete_ = false;
  bool woken_ = false;  // a turn is due
  bool waits_ = false;  // the connection does, and WakeUp must tell it
  std::chrono::milliseconds silence_{0};
  std::function<void()> on_gone_, on_silence_;
  std::shared_ptr<const std::function<void()>> turn_;  // null: none
};

// A reply while its connection serves it, or until the server is gone.
struct Attached {
  Attached(std::shared_ptr<Reply> to, std::atomic<int>* count)
      : reply(std::move(to)), count(count) {
    ++*count;
  }
  ~Attached() {
    reply->Detach();
    --*count;
  }
  const std::shared_ptr<Reply> reply;
  std::atomic<int>* const count;  // of those that are attached
};

// As clients of OpenAI's API expect errors.
HttpResponse ErrorResponse(int status, const char* code, const char* message) {
  HttpResponse response = {
      .status = status,
      .body = absl::StrCat(R"({"error":{"message":")", message,
                           R"(","type":"invalid_request_error",)",
                           R"("param":null,"code":")", code, R"("}})")};
  if (status == 413) response.headers = {{"x-should-retry", "false"}};
  return response;
}

// The response to what could not be read as a request; none if the client is
// gone.
std::optional<HttpResponse> RefusalOf(const error_code& error) {
  if (error == http::error::body_limit) {
    return ErrorResponse(413, "request_too_large", "the body is too large");
  }
  if (error == http::error::header_limit ||
      error == http::error::buffer_overflow) {
    return ErrorResponse(431, "headers_too_large", "the headers are too large");
  }
  if (error == asio::error::timed_out) {
    return ErrorResponse(408, "request_timeout",
                         "the request did not come in time");
  }
  if (error.category() == make_error_code(http::error::bad_method).category() &&
      error != http::error::end_of_stream &&
      error != http::error::partial_message) {
    return ErrorResponse(400, "bad_request", "this is no HTTP/1.1 request");
  }
  return std::nullopt;
}

Head HeadOf(const HttpResponse& response, bool keep_alive) {
  Head head(static_cast<http::status>(response.status), 11);
  head.set(http::field::content_type, response.content_type);
  head.set(http::field::server, "h2oserve");
  for (const auto& [name, value] : response.headers) head.set(name, value);
  head.keep_alive(keep_alive);
  return head;
}

// RFC 9112, 7.1.
std::string ChunkOf(const std::string& body) {
  return absl::StrCat(absl::Hex(body.size()), "\r\n", body, "\r\n");
}

// A path, "*", or the absolute form (RFC 9112, 3.2): a proxy's CONNECT is none.
bool IsTarget(std::string_view target) {
  return target == "*" || target.starts_with('/') ||
         target.find("://") != std::string_view::npos;
}

// The path of a target; of the absolute form as well.
void SplitTarget(std::string_view target, HttpRequest* request) {
  if (const size_t scheme = target.find("://");
      scheme != std::string_view::npos && target.front() != '/') {
    const size_t path = target.find('/', scheme + 3);
    target = path == std::string_view::npos ? "/" : target.substr(path);
  }
  const size_t query = target.find('?');
  request->path = target.substr(0, query);
  if (query != std::string_view::npos) {
    request->query = target.substr(query + 1);
  }
}

HttpRequest RequestOf(http::request<http::string_body> message,
                      std::string peer) {
  HttpRequest request;
  const auto text = [](auto view) {
    return std::string(view.data(), view.size());
  };
  request.method = message.method() == http::verb::head
                       ? "GET"
                       : text(message.method_string());
  SplitTarget(text(message.target()), &request);
  for (const auto& field : message) {
    request.headers.emplace_back(text(field.name_string()),
                                 text(field.value()));
  }
  request.body = std::move(message.body());
  request.peer = std::move(peer);
  return request;
}

// When the next handshake may begin, so that they take a bounded part of the
// processor.
//
// Threads  any.
class HandshakePace {
 public:
  using Time = std::chrono::steady_clock::time_point;
  explicit HandshakePace(int per_second)
      : interval_(std::chrono::nanoseconds(1'000'000'000 / per_second)) {}

  Time Next() {
    std::lock_guard lock(mutex_);
    // A second's worth may begin at once.
    next_ = std::max(next_ + interval_, std::chrono::steady_clock::now() -
                                            std::chrono::seconds(1));
    return next_;
  }

 private:
  const std::chrono::nanoseconds interval_;
  std::mutex mutex_;
  Time next_ = {};
};

class Connection;

// Connections that have no request, the longest silent ones first.
//
// Threads  any.
class SilentConnections {
 public:
  using Time = std::chrono::steady_clock::time_point;

  uint64_t Add(std::weak_ptr<Connection> connection) {
    std::lock_guard lock(mutex_);
    silent_[++last_] = {std::chrono::steady_clock::now(),
                        std::move(connection)};
    return last_;
  }
  void Remove(uint64_t number) {
    std::lock_guard lock(mutex_);
    silent_.erase(number);
  }
  // The one that has been silent for longest, and for longer than kSilent.
  std::shared_ptr<Connection> TakeOldest() {
    std::lock_guard lock(mutex_);
    while (!silent_.empty()) {
      const auto oldest = silent_.begin();
      if (std::chrono::steady_clock::now() - oldest->second.since < kSilent) {
        return nullptr;
      }
      std::shared_ptr<Connection> connection = oldest->second.connection.lock();
      silent_.erase(oldest);
      if (connection != nullptr) return connection;
    }
    return nullptr;
  }

 private:
  struct Silent {
    Time since;
    std::weak_ptr<Connection> connection;
  };
  std::mutex mutex_;  // guards what follows
  std::map<uint64_t, Silent> silent_;
  uint64_t last_ = 0;
};

// What the connections of a server share.
struct Shared {
  HttpServerOptions options;
  HttpHandler handler;
  std::atomic<int> connections{0};
  std::atomic<int> replies{0};
  HandshakePace pace;
  SilentConnections silent;

  void Refuse(HttpRefusal refusal) const {
    if (options.on_refused) options.on_refused(refusal);
  }
};

// One connection: requests and their replies, one after another.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // `tls`: null: none.
  Connection(tcp::socket socket, std::shared_ptr<MaybeTls::Context> tls,
             std::shared_ptr<Shared> shared)
      : stream_(std::move(socket), std::move(tls)),
        deadline_(stream_.get_executor()),
        recheck_(stream_.get_executor()),
        wake_(stream_.get_executor()),
        shared_(std::move(shared)),
        options_(shared_->options) {
    ++shared_->connections;
  }
  ~Connection() { --shared_->connections; }

  awaitable<void> Run() {
    error_code error;
    stream_.socket().set_option(tcp::no_delay(true), error);
    stream_.socket().non_blocking(true, error);
    stream_.socket().set_option(
        asio::socket_base::send_buffer_size(kSendBufferBytes), error);
    const tcp::endpoint peer = stream_.socket().remote_endpoint(error);
    if (!error) peer_ = peer.address().to_string();
    if (stream_.tls() != nullptr && !co_await ShakeHands()) {
      shared_->Refuse(HttpRefusal::kConnection);
      co_return;
    }
    bool first = true;
    while (co_await Exchange(first)) first = false;
    if (stream_.tls() != nullptr) {
      stream_.low().expires_after(Seconds(kFarewellSeconds));
      co_await stream_.tls()->async_shutdown(
          redirect_error(use_awaitable, error));
    }
    stream_.socket().shutdown(tcp::socket::shutdown_send, error);
  }

  // Another connection needs its place.  Any thread.
  void Cut() {
    asio::post(stream_.get_executor(), [self = shared_from_this()] {
      self->shared_->Refuse(HttpRefusal::kConnection);
      self->cut_ = true;
      self->stream_.low().close();
    });
  }

 private:
  // Returns whether it is done.
  awaitable<bool> ShakeHands() {
    const uint64_t silent = shared_->silent.Add(weak_from_this());
    BeginDeadline(options_.header_seconds);
    error_code error;
    asio::steady_timer turn(stream_.get_executor(), shared_->pace.Next());
    co_await turn.async_wait(redirect_error(use_awaitable, error));
    if (!timed_out_ && !cut_) {
      co_await stream_.tls()->async_handshake(
          asio::ssl::stream_base::server, redirect_error(use_awaitable, error));
    }
    shared_->silent.Remove(silent);
    const bool in_time = !timed_out_ && !cut_;
    EndDeadline(&error);
    co_return in_time && !error;
  }

  // One request and its reply.  Returns whether the connection goes on.
  awaitable<bool> Exchange(bool first) {
    http::request_parser<http::string_body> parser;
    parser.header_limit(static_cast<uint32_t>(options_.max_header_bytes));
    parser.body_limit(static_cast<uint64_t>(options_.max_body_bytes));
    error_code error;
    const uint64_t silent = shared_->silent.Add(weak_from_this());
    BeginDeadline(first ? options_.header_seconds : options_.idle_seconds);
    co_await http::async_read_header(stream_, buffer_, parser,
                                     redirect_error(use_awaitable, error));
    EndDeadline(&error);
    shared_->silent.Remove(silent);
    if (cut_) co_return false;
    if (!error) error = co_await ReadBody(&parser);
    const auto target = parser.get().target();
    if (!error && !IsTarget({target.data(), target.size()})) {
      error = http::error::bad_target;
    }
    if (error) {
      const std::optional<HttpResponse> refusal = RefusalOf(error);
      if (refusal && (first || error != asio::error::timed_out)) {
        const bool said_nothing = error == asio::error::timed_out &&
                                  !parser.got_some() && buffer_.size() == 0;
        shared_->Refuse(said_nothing ? HttpRefusal::kConnection
                                     : HttpRefusal::kRequest);
        keep_alive_ = false;
        if (co_await WriteWhole(*refusal, false)) co_await Linger();
      }
      co_return false;
    }
    const bool is_head = parser.get().method() == http::verb::head;
    keep_alive_ = parser.get().keep_alive();
    auto reply = std::make_shared<Reply>(&wake_, options_.max_unread_bytes);
    const Attached attached(reply, &shared_->replies);
    Watch(reply);
    shared_->handler(RequestOf(parser.release(), peer_), reply);
    const bool sent = co_await SendReply(reply.get(), is_head);
    sent ? reply->Complete() : reply->Lose();
    stream_.socket().cancel(error);  // the watch
    recheck_.cancel();
    co_return sent&& keep_alive_;
  }

  // Takes what the client still sends of a refused request, for a while: a
  // connection closed before that would take the refusal from it.
  awaitable<void> Linger() {
    error_code error;
    if (stream_.tls() == nullptr) {
      stream_.socket().shutdown(tcp::socket::shutdown_send, error);
    }
    stream_.low().expires_after(Seconds(kFarewellSeconds));
    for (int64_t taken = 0; !error && taken < kLingerBytes;) {
      buffer_.clear();
      taken += static_cast<int64_t>(co_await stream_.async_read_some(
          buffer_.prepare(kLingerBlock), redirect_error(use_awaitable, error)));
    }
  }

  // Reads that take longer are cancelled and end with timed_out.  A timeout of
  // the stream itself would close it before the client is told.
  void BeginDeadline(double seconds) {
    stream_.low().expires_never();
    deadline_.expires_after(Seconds(seconds));
    deadline_.async_wait([self = shared_from_this(),
                          reading = ++reading_](const error_code& error) {
      if (error || reading != self->reading_) return;
      self->timed_out_ = true;
      self->stream_.low().cancel();
    });
  }
  void EndDeadline(error_code* error) {
    ++reading_;
    deadline_.cancel();
    if (std::exchange(timed_out_, false) && *error) {
      *error = asio::error::timed_out;
    }
  }

  awaitable<error_code> ReadBody(http::request_parser<http::string_body>* p) {
    error_code error;
    BeginDeadline(options_.body_seconds);
    if (beast::iequals(p->get()[http::field::expect], "100-continue")) {
      const std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
      co_await asio::async_write(stream_,
                                 asio::buffer(go_on.data(), go_on.size()),
                                 redirect_error(use_awaitable, error));
    }
    if (!error) {
      co_await http::async_read(stream_, buffer_, *p,
                                redirect_error(use_awaitable, error));
    }
    EndDeadline(&error);
    co_return error;
  }

  // Notices a client that leaves before it has its reply.
  void Watch(std::shared_ptr<Reply> reply) {
    stream_.socket().async_wait(
        tcp::socket::wait_read,
        [self = shared_from_this(), reply](const error_code& error) {
          if (error) return;  // cancelled
          char c;
          const ssize_t n = recv(self->stream_.socket().native_handle(), &c, 1,
                                 MSG_PEEK | MSG_DONTWAIT);
          if (n == 0 || (n < 0 && errno != EAGAIN)) return reply->Lose();
          if (n > 0) self->WatchEnd(reply);
        });
  }

  // There are bytes behind the request: the next one, or the last words of TLS.
  // The end of the stream lies behind them.
  void WatchEnd(std::shared_ptr<Reply> reply) {
    pollfd end = {stream_.socket().native_handle(), POLLRDHUP, 0};
    if (poll(&end, 1, 0) > 0) return reply->Lose();
    recheck_.expires_after(kGoneLook);
    recheck_.async_wait([self = shared_from_this(),
                         reply = std::move(reply)](const error_code& error) {
      if (!error) self->WatchEnd(reply);
    });
  }

  // Returns whether the whole reply was sent.
  awaitable<bool> SendReply(Reply* reply, bool is_head) {
    bool began = false;
    while (true) {
      co_await reply->Wait();
      Reply::Due due = reply->Take();
      if (due.broken) co_return false;
      if (due.head && due.head->closes) keep_alive_ = false;
      if (due.whole) co_return co_await WriteWhole(*due.head, is_head);
      if (due.head) {
        began = true;
        if (!co_await WriteChunkedHead(*due.head)) co_return false;
        if (is_head) co_return true;
      }
      H2O_CHECK(began) << "a reply has no head";
      std::string chunk = due.body.empty() ? "" : ChunkOf(due.body);
      if (due.ended) chunk += "0\r\n\r\n";
      if (!co_await WriteBytes(chunk)) co_return false;
      if (due.ended) co_return true;
    }
  }

  awaitable<bool> WriteWhole(const HttpResponse& response, bool is_head) {
    Head head = HeadOf(response, keep_alive_);
    head.content_length(response.body.size());
    if (!co_await WriteHead(&head)) co_return false;
    if (is_head || response.body.empty()) co_return true;
    co_return co_await WriteBytes(response.body);
  }

  awaitable<bool> WriteChunkedHead(const HttpResponse& response) {
    Head head = HeadOf(response, keep_alive_);
    head.chunked(true);
    co_return co_await WriteHead(&head);
  }

  awaitable<bool> WriteHead(Head* head) {
    http::response_serializer<http::empty_body> serializer(*head);
    error_code error;
    stream_.low().expires_after(Seconds(options_.write_seconds));
    co_await http::async_write_header(stream_, serializer,
                                      redirect_error(use_awaitable, error));
    co_return !error;
  }

  // Writes what the system takes at once, without waiting.
  void WriteSome(std::string_view* bytes) {
    if (stream_.tls() != nullptr) return;
    error_code error;  // will come again
    bytes->remove_prefix(stream_.socket().send(
        asio::buffer(bytes->data(), bytes->size()), 0, error));
  }

  // Part by part: a client has write_seconds for each.
  awaitable<bool> WriteBytes(std::string_view bytes) {
    WriteSome(&bytes);
    while (!bytes.empty()) {
      error_code error;
      stream_.low().expires_after(Seconds(options_.write_seconds));
      const size_t written = co_await stream_.async_write_some(
          asio::buffer(bytes.data(), bytes.size()),
          redirect_error(use_awaitable, error));
      if (error) co_return false;
      bytes.remove_prefix(written);
    }
    co_return true;
  }

  MaybeTls stream_;
  beast::flat_buffer buffer_;
  asio::steady_timer deadline_, recheck_, wake_;
  uint64_t reading_ = 0;  // a number for each read with a deadline
  bool timed_out_ = false;
  bool cut_ = false;
  bool keep_alive_ = true;
  const std::shared_ptr<Shared> shared_;
  const HttpServerOptions& options_;
  std::string peer_;
};

class Server final : public HttpServer {
 public:
  Server(const HttpServerOptions& options, HttpHandler handler)
      : shared_(
            new Shared{.options = options,
                       .handler = std::move(handler),
                       .pace = HandshakePace(options.handshakes_per_second)}),
        context_(std::make_unique<asio::io_context>(options.threads)),
        acceptor_(*context_) {}

  ~Server() override {
    context_->stop();
    for (std::thread& thread : threads_) thread.join();
  }

  absl::Status SetTls(const TlsMaterial& tls) override {
    auto next = NewTlsContext(tls);
    if (!next.ok()) return next.status();
    std::lock_guard lock(tls_mutex_);
    tls_ = *std::move(next);
    return absl::OkStatus();
  }

  absl::Status Listen(const HostPort& where) {
    error_code error;
    tcp::resolver resolver(*context_);
    const auto found = resolver.resolve(where.host, std::to_string(where.port),
                                        tcp::resolver::passive, error);
    if (error || found.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(where.host, " names no address: ", error.message()));
    }
    const tcp::endpoint endpoint = found.begin()->endpoint();
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error)
      acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) {
      return absl::UnavailableError(absl::StrCat(
          "cannot listen on ", where.ToString(), ": ", error.message()));
    }
    address_ = where;
    address_.port = acceptor_.local_endpoint(error).port();
    return absl::OkStatus();
  }

  void Run() {
    asio::co_spawn(*context_, Accept(), asio::detached);
    for (int i = 0; i < shared_->options.threads; ++i) {
      threads_.emplace_back([this] { context_->run(); });
    }
  }

  const HostPort& address() const override { return address_; }
  int num_connections() const override { return shared_->connections; }
  int num_replies() const override { return shared_->replies; }

 private:
  awaitable<void> Accept() {
    while (true) {
      error_code error;
      tcp::socket socket = co_await acceptor_.async_accept(
          asio::make_strand(*context_), redirect_error(use_awaitable, error));
      if (error == asio::error::operation_aborted) co_return;
      if (error) {  // no descriptor is left, for example
        asio::steady_timer pause(*context_, kAcceptPause);
        co_await pause.async_wait(redirect_error(use_awaitable, error));
        continue;
      }
      if (shared_->connections >= shared_->options.max_connections) {
        const auto silent = shared_->silent.TakeOldest();
        if (silent == nullptr) {
          shared_->Refuse(HttpRefusal::kConnection);
          continue;  // closes it
        }
        silent->Cut();
      }
      const asio::any_io_executor strand = socket.get_executor();
      auto connection =
          std::make_shared<Connection>(std::move(socket), Tls(), shared_);
      asio::co_spawn(
          strand, [connection] { return connection->Run(); }, asio::detached);
    }
  }

  std::shared_ptr<MaybeTls::Context> Tls() {
    std::lock_guard lock(tls_mutex_);
    return tls_;
  }

  const std::shared_ptr<Shared> shared_;
  const std::unique_ptr<asio::io_context> context_;
  tcp::acceptor acceptor_;
  HostPort address_;
  std::mutex tls_mutex_;
  std::shared_ptr<MaybeTls::Context> tls_;  // guarded by it; null: no TLS
  std::vector<std::thread> threads_;
};

}  // namespace

std::string_view HttpRequest::Header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (beast::iequals(key, {name.data(), name.size()})) return value;
  }
  return {};
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(
    const HostPort& where, const HttpServerOptions& options,
    HttpHandler handler) {
  auto server = std::make_unique<Server>(options, std::move(handler));
  if (options.tls) {
    if (absl::Status status = server->SetTls(*options.tls); !status.ok()) {
      return status;
    }
  }
  if (absl::Status status = server->Listen(where); !status.ok()) return status;
  server->Run();
  return server;
}

}  // namespace h2o
