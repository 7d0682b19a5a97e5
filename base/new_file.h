// A file that appears complete or not at all.  It is written in its folder
// without a name (O_TMPFILE), so that nothing is left of it if the program is
// killed, forced to disk, named, and renamed into its place.  Until then
// readers see the file that was there before, or none.  File systems without
// O_TMPFILE see another name, NAME.<number>.part, from the start.
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
  void OpenBeside();
  // Gives the file the name beside_, if it has none yet.
  void NameIt();
  void Flush();
  void NoteFault();
  void Discard();

  std::string path_;
  std::string beside_;  // its name until it is renamed; empty: path_ itself
  bool named_ = true;
  int fd_ = -1;
  int fault_ = 0;  // errno of the first write that failed
  std::string buffer_;
};

}  // namespace h2o
