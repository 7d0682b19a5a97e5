// Writes a file beside its place and renames it when it is complete.
#include "base/new_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/entropy.h"

namespace h2o {
namespace {

constexpr size_t kBufferBytes = 1 << 20;

// Where the bytes of `path` belong: what a symbolic link leads to.
std::string PlaceOf(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_symlink(path, error)) return path;
  const std::filesystem::path place =
      std::filesystem::weakly_canonical(path, error);
  return error ? path : place.string();
}

// A device or a pipe has no place that a rename could take.
bool IsWrittenDirectly(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error) &&
         !std::filesystem::is_regular_file(path, error);
}

}  // namespace

absl::StatusOr<NewFile> NewFile::Create(const std::string& path) {
  NewFile file;
  file.path_ = PlaceOf(path);
  if (IsWrittenDirectly(file.path_)) {
    file.fd_ = open(file.path_.c_str(), O_WRONLY | O_CLOEXEC);
  } else {
    file.OpenBeside();
  }
  if (file.fd_ < 0) {
    return absl::PermissionDeniedError(
        absl::StrCat("cannot write ", path, ": ", std::strerror(errno)));
  }
  return file;
}

void NewFile::OpenBeside() {
  constexpr mode_t kMode = 0666;  // less what the umask takes
  beside_ = absl::StrCat(path_, ".", absl::Hex(RandomBits64()), ".part");
  std::filesystem::path folder = std::filesystem::path(path_).parent_path();
  if (folder.empty()) folder = ".";
  fd_ = open(folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, kMode);
  named_ = fd_ < 0;
  if (!named_) return;
  fd_ = open(beside_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kMode);
}

void NewFile::NameIt() {
  if (std::exchange(named_, true)) return;
  const std::string self = absl::StrCat("/proc/self/fd/", fd_);
  if (linkat(AT_FDCWD, self.c_str(), AT_FDCWD, beside_.c_str(),
             AT_SYMLINK_FOLLOW) != 0) {
    NoteFault();
  }
}

NewFile::NewFile(NewFile&& other) noexcept { *this = std::move(other); }

NewFile& NewFile::operator=(NewFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(beside_, other.beside_);
  std::swap(named_, other.named_);
  std::swap(fd_, other.fd_);
  std::swap(fault_, other.fault_);
  std::swap(buffer_, other.buffer_);
  return *this;
}

NewFile::~NewFile() {
  if (is_open()) Discard();
}

void NewFile::Append(std::string_view bytes) {
  if (fault_ != 0) return;  // the rest is not wanted
  buffer_.append(bytes);
  if (buffer_.size() >= kBufferBytes) Flush();
}

absl::Status NewFile::Commit() {
  Flush();
  // Disks may be full only now, and a device has nothing to force.
  if (!beside_.empty() && fault_ == 0 && fsync(fd_) != 0) NoteFault();
  if (fault_ == 0) NameIt();
  if (close(std::exchange(fd_, -1)) != 0) NoteFault();
  if (!beside_.empty() && fault_ == 0 &&
      rename(beside_.c_str(), path_.c_str()) != 0) {
    NoteFault();
  }
  if (fault_ == 0) return absl::OkStatus();
  Discard();
  return absl::DataLossError(
      absl::StrCat("cannot write all of ", path_, ": ", std::strerror(fault_)));
}

void NewFile::Flush() {
  size_t at = 0;
  while (fault_ == 0 && at < buffer_.size()) {
    const ssize_t n = write(fd_, buffer_.data() + at, buffer_.size() - at);
    if (n >= 0) {
      at += n;
    } else if (errno != EINTR) {
      NoteFault();
    }
  }
  buffer_.clear();
}

void NewFile::NoteFault() {
  if (fault_ == 0) fault_ = errno;
}

void NewFile::Discard() {
  if (is_open()) close(std::exchange(fd_, -1));
  if (!beside_.empty() && named_) unlink(beside_.c_str());
}

}  // namespace h2o
