// A directory that appears complete or not at all.  It is filled beside its
// place, as NAME.<number>.part, and renamed into it.
//
// Threads  not thread-safe.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace h2o {

class NewDirectory {
 public:
  // Errors: INVALID_ARGUMENT if `path` is a directory that is not empty, or no
  // directory; PERMISSION_DENIED if none can be made beside it.
  static absl::StatusOr<NewDirectory> Create(const std::string& path);
  NewDirectory(NewDirectory&& other) noexcept;
  NewDirectory& operator=(NewDirectory&& other) = delete;
  ~NewDirectory();  // without a Commit nothing is left

  // Where files belong until Commit.
  const std::string& path() const { return beside_; }

  // Puts the directory in its place.  Errors: DATA_LOSS naming the path; then
  // nothing is left.
  absl::Status Commit();

 private:
  NewDirectory() = default;

  std::string place_;
  std::string beside_;  // empty: nothing is to be removed
};

}  // namespace h2o
