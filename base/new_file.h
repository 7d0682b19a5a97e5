// A file that appears complete or not at all.  It is written beside its place
// under another name, forced to disk, and then renamed.  Until then readers see
// the file that was there before, or none.
//
// A path that names a device or a pipe (/dev/stdout) is written directly.
//
// Threads  not thread-safe.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace h2o {

class NewFile {
 public:
  NewFile() = default;  // no file: is_open() is false
  // Errors: PERMISSION_DENIED naming a path that cannot be written.
  static absl::StatusOr<NewFile> Create(const std::string& path);
  NewFile(NewFile&& other) noexcept;
  NewFile& operator=(NewFile&& other) noexcept;
  ~NewFile();  // without a Commit nothing is left

  bool is_open() const { return fd_ >= 0; }
  const std::string& path() const { return path_; }

  // Buffered.  Commit reports what could not be written.
  void Append(std::string_view bytes);

  // Puts the file in its place.  REQUIRES: is_open(), which it ends.
  // Errors: DATA_LOSS naming the path and the first fault (a full disk); then
  // nothing is left of the new file.
  absl::Status Commit();

 private:
  void Flush();
  void NoteFault();
  void Discard();

  std::string path_;
  std::string beside_;  // where it is written; empty: at path_ itself
  int fd_ = -1;
  int fault_ = 0;  // errno of the first write that failed
  std::string buffer_;
};

}  // namespace h2o
