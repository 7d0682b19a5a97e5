// What protects a coordinator, as its flags say: keys and certificates.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "access/keys.h"
#include "access/tls_files.h"
#include "base/tls_material.h"
#include "coordinator/doorkeeper.h"
#include "flags/flags.h"
#include "http/http_server.h"
#include "proto/live_certificates.h"

namespace h2o {

struct Guard {
  // Errors: INVALID_ARGUMENT naming the flag, the file and what is wrong.
  static absl::StatusOr<Guard> Load(const AccessFlags& flags);

  std::unique_ptr<Keys> keys;                      // null: there are none
  std::unique_ptr<LiveCertificates> certificates;  // of gRPC; null: no TLS
  std::unique_ptr<TlsFiles> tls;  // null: no TLS; last, since it is watched

  // REQUIRES: tls (all).
  TlsMaterial MaterialOfHttp() const;
  double Expires() const;  // the certificate: Unix, seconds
  // New connections of gRPC and of `http`, which may be null, take new
  // certificates.
  void Follow(HttpServer* http);
};

// What `flags` say of clients and workers, but for the model's names.
DoorkeeperOptions DoorkeeperOptionsOf(const CoordinatorFlags& flags,
                                      const Guard& guard);

// As CheckExposure, of the flags' addresses.
absl::Status CheckExposure(const CoordinatorFlags& flags);

}  // namespace h2o
