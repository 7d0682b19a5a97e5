// Judges keys, counts refusals and logs them.
#include "coordinator/doorkeeper.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/cut_text.h"
#include "base/host_port.h"
#include "coordinator/peer_address.h"

namespace h2o {
namespace {

// A header has fewer; what is longer is no key of ours, and is not hashed.
constexpr size_t kMaxKeyBytes = 4096;

}  // namespace

Doorkeeper::Doorkeeper(DoorkeeperOptions options, Engine* engine,
                       const Clock* clock)
    : options_(std::move(options)), engine_(engine), audit_(clock) {}

absl::StatusOr<TenantRow> Doorkeeper::Admit(Right right,
                                            const Visitor& visitor) {
  absl::StatusOr<TenantRow> tenant = Judge(right, visitor);
  if (!tenant.ok()) {
    Note(absl::IsPermissionDenied(tenant.status()) ? Refusal::kForbidden
                                                   : Refusal::kUnauthenticated,
         visitor, tenant.status());
  }
  return tenant;
}

absl::Status Doorkeeper::AdmitWorker(const Visitor& visitor) {
  const absl::Status status = JudgeWorker(visitor);
  if (!status.ok()) Note(Refusal::kWorker, visitor, status);
  return status;
}

void Doorkeeper::Note(Refusal reason, const Visitor& visitor,
                      const absl::Status& why) {
  engine_->CountRefusal(reason);
  audit_.Add(LogLevel::kWarning, "",
             absl::StrCat("refused ", visitor.peer, " that asked for ",
                          CutText(std::string(visitor.asks_for)), ": ",
                          why.message()));
}

absl::Status Doorkeeper::JudgeWorker(const Visitor& visitor) const {
  if (!visitor.certificate) return absl::OkStatus();
  if (options_.tls != nullptr) {
    const auto state = options_.tls->state();
    if (state->worker_ca != nullptr) {
      if (state->worker_ca->Vouch(*visitor.certificate)) {
        return absl::OkStatus();
      }
      return absl::UnauthenticatedError(
          visitor.certificate->empty()
              ? "a worker must show a certificate (--tls-cert)"
              : "its certificate is none of --worker-ca");
    }
  }
  switch (options_.workers) {
    case DoorkeeperOptions::Workers::kAll:
      return absl::OkStatus();
    case DoorkeeperOptions::Workers::kOfThisHost:
      if (IsLoopback(HostOfPeer(visitor.peer))) return absl::OkStatus();
      return absl::UnauthenticatedError(
          "workers of other hosts need certificates, and the coordinator a "
          "--worker-ca, where clients need keys or certificates");
    case DoorkeeperOptions::Workers::kOfTheSocket:
      break;
  }
  return absl::UnauthenticatedError(
      "this server has workers of its own; others need certificates, and the "
      "server a --worker-ca");
}

absl::StatusOr<TenantRow> Doorkeeper::Judge(Right right,
                                            const Visitor& visitor) {
  if (right == Right::kNone) return TenantRow();
  if (options_.tls != nullptr && visitor.certificate) {
    const auto state = options_.tls->state();
    if (state->peer_ca != nullptr &&
        !clients_.Vouch(state->peer_ca, *visitor.certificate)) {
      return absl::UnauthenticatedError(
          "its certificate is none of --tls-client-ca");
    }
  }
  if (options_.keys == nullptr) return TenantRow();
  if (visitor.authorization.empty()) {
    return absl::UnauthenticatedError(
        "a key is needed: authorization: Bearer KEY");
  }
  const std::string_view key = KeyOfAuthorization(visitor.authorization);
  if (key.empty()) {
    return absl::UnauthenticatedError(
        "the authorization is malformed; it must be: Bearer KEY");
  }
  TenantRow tenant = options_.keys->Find(key.substr(0, kMaxKeyBytes));
  if (tenant == nullptr) return absl::UnauthenticatedError("the key is wrong");
  if (right == Right::kAdmin && !tenant->admin) {
    return absl::PermissionDeniedError(
        absl::StrCat("the key of ", tenant->name, " is no admin's"));
  }
  const auto usable = [&](const std::string& model) {
    return model == "*" || std::count(options_.model_names.begin(),
                                      options_.model_names.end(), model) > 0;
  };
  if (right == Right::kModel &&
      std::none_of(tenant->models.begin(), tenant->models.end(), usable)) {
    return absl::PermissionDeniedError(
        absl::StrCat("the key of ", tenant->name, " may not use this model"));
  }
  return tenant;
}

}  // namespace h2o
