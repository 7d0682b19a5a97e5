// Checks certificates before they are used, and says who issued those of
// others.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace h2o {

// Whether a server or client could show `chain` with `key` at the time `now`
// (Unix, seconds).  Returns when the first certificate of the chain expires.
// Errors: INVALID_ARGUMENT: no PEM, a key of another certificate or with a
// passphrase, certificates that do not follow each other, one that is not valid
// yet or any more.
absl::StatusOr<int64_t> CheckCertificate(const std::string& chain,
                                         const std::string& key, int64_t now);

// The CAs that a file names.  Threads: any.
class Issuers {
 public:
  // Errors: INVALID_ARGUMENT if `pem` holds no certificate.
  static absl::StatusOr<std::shared_ptr<const Issuers>> Parse(
      const std::string& pem);

  // Whether `chain` (the certificate of a TLS client, then its issuers) leads
  // to one of these CAs and is valid now.
  bool Vouch(const std::string& chain) const;

 private:
  struct Store;
  explicit Issuers(std::shared_ptr<Store> store) : store_(std::move(store)) {}
  const std::shared_ptr<Store> store_;
};

}  // namespace h2o
