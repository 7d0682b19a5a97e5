// Loads keys and certificates, and hands them to the doors.
#include "coordinator/guard.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "coordinator/exposure.h"

namespace h2o {
namespace {

// The name of the file's flag goes before what is wrong with it.
absl::Status OfFlag(const char* flag, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrCat(flag, ": ", status.message()));
}

// Clients and workers come over the same port.
TlsMaterial GrpcMaterialOf(const TlsState& state) {
  const char* between = state.peer_roots.empty() ? "" : "\n";
  TlsMaterial material = state.material();
  absl::StrAppend(&material.roots, between, state.worker_roots);
  return material;
}

}  // namespace

absl::StatusOr<Guard> Guard::Load(const AccessFlags& flags) {
  Guard guard;
  if (!flags.api_keys.empty()) {
    absl::StatusOr<std::unique_ptr<Keys>> keys = Keys::Load(flags.api_keys);
    if (!keys.ok()) return OfFlag("--api-keys", keys.status());
    guard.keys = *std::move(keys);
  }
  const TlsPaths paths = {.certificate = flags.certificate,
                          .key = flags.key,
                          .peer_ca = flags.client_ca,
                          .worker_ca = flags.worker_ca};
  if (!paths.any()) return guard;
  absl::StatusOr<std::unique_ptr<TlsFiles>> files = TlsFiles::Load(paths);
  if (!files.ok()) return OfFlag("--tls-cert", files.status());
  guard.tls = *std::move(files);
  guard.certificates =
      std::make_unique<LiveCertificates>(GrpcMaterialOf(*guard.tls->state()));
  return guard;
}

TlsMaterial Guard::MaterialOfHttp() const {
  return tls->state()->material();
}

double Guard::Expires() const {
  return static_cast<double>(tls->state()->expires);
}

void Guard::Follow(HttpServer* http) {
  tls->Watch([live = certificates.get(), http](const TlsState& state) {
    live->Replace(GrpcMaterialOf(state));
    if (http == nullptr) return;
    const absl::Status taken = http->SetTls(state.material());
    if (taken.ok()) return;
    H2O_LOG(LogLevel::kError)
        << "HTTP keeps its old certificates: " << taken.message();
  });
}

DoorkeeperOptions DoorkeeperOptionsOf(const CoordinatorFlags& flags,
                                      const Guard& guard) {
  using Workers = DoorkeeperOptions::Workers;
  const bool clients_prove =
      !flags.access.api_keys.empty() || !flags.access.client_ca.empty();
  Workers workers = clients_prove ? Workers::kOfThisHost : Workers::kAll;
  if (!flags.worker_socket.empty()) workers = Workers::kOfTheSocket;
  return {.keys = guard.keys.get(),
          .model_names = {},
          .tls = guard.tls.get(),
          .workers = workers};
}

absl::Status CheckExposure(const CoordinatorFlags& flags) {
  return CheckExposure({flags.listen, flags.http},
                       {.tls = !flags.access.certificate.empty(),
                        .clients_prove = !flags.access.api_keys.empty() ||
                                         !flags.access.client_ca.empty(),
                        .required = flags.access.require_auth});
}

}  // namespace h2o
