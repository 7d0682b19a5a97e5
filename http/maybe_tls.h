// A client's socket, with TLS or without, for Boost's algorithms.  Both kinds
// are one type, so that these are compiled once.
#pragma once

#include <openssl/ssl.h>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/tls_material.h"

namespace h2o {

class MaybeTls {
 public:
  using executor_type = boost::beast::tcp_stream::executor_type;
  using Context = boost::asio::ssl::context;

  // `context`: null: no TLS.
  MaybeTls(boost::asio::ip::tcp::socket socket,
           std::shared_ptr<Context> context)
      : low_(std::move(socket)), context_(std::move(context)) {
    if (context_ != nullptr) tls_.emplace(low_, *context_);
  }

  executor_type get_executor() noexcept { return low_.get_executor(); }
  boost::beast::tcp_stream& low() { return low_; }
  boost::asio::ip::tcp::socket& socket() { return low_.socket(); }
  // Null without TLS.
  boost::beast::ssl_stream<boost::beast::tcp_stream&>* tls() {
    return tls_ ? &*tls_ : nullptr;
  }

  template <typename Buffers, typename Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    return tls_ ? tls_->async_read_some(buffers, std::forward<Token>(token))
                : low_.async_read_some(buffers, std::forward<Token>(token));
  }
  template <typename Buffers, typename Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return tls_ ? tls_->async_write_some(buffers, std::forward<Token>(token))
                : low_.async_write_some(buffers, std::forward<Token>(token));
  }

 private:
  boost::beast::tcp_stream low_;
  const std::shared_ptr<Context> context_;
  std::optional<boost::beast::ssl_stream<boost::beast::tcp_stream&>> tls_;
};

// Nothing older than TLS 1.2.
inline void RefuseOldProtocols(MaybeTls::Context* context,
                               boost::system::error_code* error) {
  using Context = MaybeTls::Context;
  context->set_options(Context::default_workarounds | Context::no_sslv2 |
                           Context::no_sslv3 | Context::no_tlsv1 |
                           Context::no_tlsv1_1,
                       *error);
}

// This end's certificate and key.  No effect after an error.
inline void ShowCertificate(const TlsMaterial& material,
                            MaybeTls::Context* context,
                            boost::system::error_code* error) {
  namespace asio = boost::asio;
  if (!*error) {
    context->use_certificate_chain(asio::buffer(material.chain), *error);
  }
  if (!*error) {
    context->use_private_key(asio::buffer(material.key), MaybeTls::Context::pem,
                             *error);
  }
}

// INVALID_ARGUMENT for what OpenSSL says of certificates; no error: OK.
inline absl::Status StatusOfTls(const boost::system::error_code& error) {
  if (!error) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("OpenSSL cannot use the certificates: ", error.message()));
}

// Errors: INVALID_ARGUMENT if OpenSSL cannot use `material`.
inline absl::StatusOr<std::shared_ptr<MaybeTls::Context>> NewTlsContext(
    const TlsMaterial& material) {
  using Context = MaybeTls::Context;
  namespace asio = boost::asio;
  auto context = std::make_shared<Context>(Context::tls_server);
  boost::system::error_code error;
  RefuseOldProtocols(context.get(), &error);
  constexpr unsigned char kSessions[] = "h2oserve";
  SSL_CTX_set_session_id_context(context->native_handle(), kSessions,
                                 sizeof(kSessions) - 1);
  ShowCertificate(material, context.get(), &error);
  if (!error && !material.roots.empty()) {
    context->add_certificate_authority(asio::buffer(material.roots), error);
    context->set_verify_mode(asio::ssl::verify_peer |
                             (material.other_end_must_show
                                  ? asio::ssl::verify_fail_if_no_peer_cert
                                  : asio::ssl::verify_none));
  }
  H2O_RETURN_IF_ERROR(StatusOfTls(error));
  return context;
}

// Of a client: it checks the server by the CAs of `material`, or else by those
// of this host, and shows its certificate if it has one.
// Errors: as NewTlsContext's.
inline absl::StatusOr<std::shared_ptr<MaybeTls::Context>> NewClientTlsContext(
    const TlsMaterial& material) {
  using Context = MaybeTls::Context;
  namespace asio = boost::asio;
  auto context = std::make_shared<Context>(Context::tls_client);
  boost::system::error_code error;
  RefuseOldProtocols(context.get(), &error);
  if (!material.chain.empty()) {
    ShowCertificate(material, context.get(), &error);
  }
  if (!error && material.roots.empty()) {
    context->set_default_verify_paths(error);
  } else if (!error) {
    context->add_certificate_authority(asio::buffer(material.roots), error);
  }
  if (!error) context->set_verify_mode(asio::ssl::verify_peer, error);
  H2O_RETURN_IF_ERROR(StatusOfTls(error));
  return context;
}

}  // namespace h2o
