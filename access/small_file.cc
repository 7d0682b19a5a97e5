// Reads whole files of a bounded size.
#include "access/small_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"

namespace h2o {
namespace {

// For a pipe whose writer is slow, as the shell's <(...).
constexpr int kPipeMs = 5000;

bool SoonReadable(int fd) {
  pollfd waited = {.fd = fd, .events = POLLIN, .revents = 0};
  return poll(&waited, 1, kPipeMs) > 0;
}

absl::Status Unreadable(const std::string& path) {
  return absl::InvalidArgumentError(
      absl::StrCat("cannot read ", path, ": ", strerror(errno)));
}

}  // namespace

absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  // Else a pipe that nobody writes to would hold the caller for ever.
  const int fd = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return Unreadable(path);
  const absl::Cleanup close_it = [fd] { close(fd); };
  std::string text;
  char block[16 << 10];
  while (static_cast<int64_t>(text.size()) <= kMaxSmallFileBytes) {
    const ssize_t n = read(fd, block, sizeof(block));
    if (n == 0) return text;
    if (n > 0) {
      text.append(block, static_cast<size_t>(n));
    } else if (errno != EINTR && (errno != EAGAIN || !SoonReadable(fd))) {
      return Unreadable(path);
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat(path, " has more than ", kMaxSmallFileBytes, " bytes"));
}

}  // namespace h2o
