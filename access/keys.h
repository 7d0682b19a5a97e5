// The keys that are in force: a key file that is read again when it changes.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "access/file_watch.h"
#include "access/key_table.h"

namespace h2o {

// Threads  any.
class Keys {
 public:
  // Errors: INVALID_ARGUMENT naming the file and what is wrong with it.
  static absl::StatusOr<std::unique_ptr<Keys>> Load(
      const std::string& path, double look_again_seconds = 1);

  // The tenant of `key`; null if there is no such key.  The time that it takes
  // tells nothing of the keys.
  TenantRow Find(std::string_view key) const;

 private:
  explicit Keys(std::string path) : path_(std::move(path)) {}
  // A file that is torn or wrong changes nothing but a line in the log.
  void Replace(const absl::StatusOr<std::string>& text);
  void Use(KeyTable table);

  const std::string path_;
  mutable std::mutex mutex_;
  std::shared_ptr<const KeyTable> table_;  // guarded by mutex_
  std::unique_ptr<FileWatch> watch_;       // last: its thread uses the rest
};

}  // namespace h2o
