// Decides who may ask for what: by their key, where there are keys, and by who
// issued their certificate, where that is asked for.  Refusals are counted and
// leave a line in the log, at a bounded rate, without the key.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "access/keys.h"
#include "access/tls_files.h"
#include "access/vouch_cache.h"
#include "base/clock.h"
#include "base/limited_log.h"
#include "coordinator/engine.h"

namespace h2o {

// What a call or a path takes, where there are keys.
enum class Right {
  kNone,   // everybody may
  kKey,    // any key
  kModel,  // a key that may use the model
  kAdmin,  // a key with `admin`
};

// Who asks, and for what.
struct Visitor {
  std::string peer;                // the address
  std::string_view authorization;  // "Bearer KEY"; empty: none was sent
  std::string_view asks_for;       // the method or the path, for the log
  // The chain that it showed; empty: none.  Nothing: it needs none, since the
  // handshake has looked at it, or no network lies between.
  std::optional<std::string> certificate;
};

struct DoorkeeperOptions {
  const Keys* keys = nullptr;            // null: no keys, everybody may do all
  std::vector<std::string> model_names;  // by which keys may name the model
  const TlsFiles* tls = nullptr;         // null: no TLS
  // Without a CA of workers: who may join.
  enum class Workers { kAll, kOfThisHost, kOfTheSocket };
  Workers workers = Workers::kAll;
};

// Threads  any.
class Doorkeeper {
 public:
  // `engine`, which counts, `clock` and the keys must outlive this.
  Doorkeeper(DoorkeeperOptions options, Engine* engine, const Clock* clock);

  bool has_keys() const { return options_.keys != nullptr; }

  // Whose request it is; null without keys, or where none is needed.
  // Errors: UNAUTHENTICATED without a key that is known, PERMISSION_DENIED for
  // one without the right.
  absl::StatusOr<TenantRow> Admit(Right right, const Visitor& visitor);

  // Whether it may join as a worker.  Errors: UNAUTHENTICATED.
  absl::Status AdmitWorker(const Visitor& visitor);

  // Whether certificates of visitors are looked at.
  bool checks_certificates() const { return options_.tls != nullptr; }

 private:
  absl::StatusOr<TenantRow> Judge(Right right, const Visitor& visitor);
  absl::Status JudgeWorker(const Visitor& visitor) const;
  void Note(Refusal reason, const Visitor& visitor, const absl::Status& why);

  const DoorkeeperOptions options_;
  Engine* const engine_;
  VouchCache clients_;
  LimitedLog audit_;
};

}  // namespace h2o
