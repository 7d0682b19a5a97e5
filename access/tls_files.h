// The certificates of this process: files that are read again when they change.
// What is used is always whole: a pair that was caught while it is being
// replaced changes nothing but a line in the log.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "access/certificates.h"
#include "access/file_watch.h"
#include "base/tls_material.h"

namespace h2o {

// Empty: not given.
struct TlsPaths {
  std::string certificate, key;  // of this end
  std::string peer_ca;           // of the other one
  std::string worker_ca;         // of workers, where they have another

  bool any() const {
    return !certificate.empty() || !peer_ca.empty() || !worker_ca.empty();
  }
};

struct TlsState {
  std::string chain, key, peer_roots, worker_roots;
  std::shared_ptr<const Issuers> peer_ca, worker_ca;  // null: not given
  int64_t expires = 0;  // Unix, seconds; 0 without a certificate

  // Without what is for workers alone.
  TlsMaterial material() const {
    return {.chain = chain,
            .key = key,
            .roots = peer_roots,
            .other_end_must_show = peer_ca != nullptr};
  }
};

// Threads  any.
class TlsFiles {
 public:
  using OnChange = std::function<void(const TlsState&)>;

  // Errors: INVALID_ARGUMENT naming the file and what is wrong with it.
  static absl::StatusOr<std::unique_ptr<TlsFiles>> Load(
      const TlsPaths& paths, double look_again_seconds = 1);

  std::shared_ptr<const TlsState> state() const;

  // From now on looks for changes; `on_change` is called from a thread of its
  // own.  Called once.
  void Watch(OnChange on_change);
  // `on_change` does not run any more when it returns.
  void StopWatching() { watch_.reset(); }

 private:
  TlsFiles(const TlsPaths& paths, double look_again_seconds);
  void Replace(const FileWatch::Contents& contents);

  const std::vector<std::string> files_;  // certificate, key, CAs; those given
  const TlsPaths paths_;
  const double look_again_seconds_;
  FileWatch::Contents seen_;  // until Watch
  OnChange on_change_;
  mutable std::mutex mutex_;
  std::shared_ptr<const TlsState> state_;  // guarded by mutex_
  std::unique_ptr<FileWatch> watch_;       // last: its thread uses the rest
};

}  // namespace h2o
