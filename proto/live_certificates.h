// Certificates of gRPC connections that may be replaced while they are in use:
// connections that begin later take the new ones, the others go on.
#pragma once

#include <cstdint>
#include <memory>

#include "base/tls_material.h"

namespace grpc::experimental {
class CertificateProviderInterface;
}

namespace h2o {

// gRPC 1.51 reloads certificates from files alone, and refuses all connections
// while key and certificate do not match.  So it is given files of our own, in
// memory, which are replaced whole.
//
// Threads  any.
class LiveCertificates {
 public:
  // REQUIRES: key and certificate match (access/certificates.h).
  explicit LiveCertificates(const TlsMaterial& material);
  ~LiveCertificates();
  LiveCertificates(const LiveCertificates&) = delete;
  LiveCertificates& operator=(const LiveCertificates&) = delete;

  // Takes effect within two seconds.  Whether there are a certificate and roots
  // must not change.
  void Replace(const TlsMaterial& material);

  // What the credentials of connections are made of.
  const std::shared_ptr<grpc::experimental::CertificateProviderInterface>&
  provider() const {
    return provider_;
  }
  bool has_identity() const { return identity_ >= 0; }
  bool has_roots() const { return roots_ >= 0; }
  bool other_end_must_show() const { return other_end_must_show_; }

 private:
  int64_t version_ = 1;
  const int identity_, roots_;  // descriptors; -1: none
  const bool other_end_must_show_;
  std::shared_ptr<grpc::experimental::CertificateProviderInterface> provider_;
};

}  // namespace h2o
