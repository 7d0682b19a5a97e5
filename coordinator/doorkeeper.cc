// Judges keys, counts refusals and logs them.
#include "coordinator/doorkeeper.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/cut_text.h"

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
  if (tenant.ok()) return tenant;
  engine_->CountRefusal(absl::IsPermissionDenied(tenant.status())
                            ? Refusal::kForbidden
                            : Refusal::kUnauthenticated);
  audit_.Add(LogLevel::kWarning, "",
             absl::StrCat("refused ", visitor.peer, " that asked for ",
                          CutText(std::string(visitor.asks_for)), ": ",
                          tenant.status().message()));
  return tenant;
}

absl::StatusOr<TenantRow> Doorkeeper::Judge(Right right,
                                            const Visitor& visitor) const {
  if (right == Right::kNone || options_.keys == nullptr) return TenantRow();
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
