// Files in memory that gRPC reads certificates from.
#include "proto/live_certificates.h"

#include <fcntl.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace h2o {
namespace {

constexpr unsigned kLookSeconds = 1;

// A file that has no name.  gRPC tells versions apart by the second of their
// last change.
int NewMemoryFile(std::string_view text, int64_t version) {
  const int fd = memfd_create("h2oserve-tls", MFD_CLOEXEC);
  H2O_CHECK(fd >= 0) << "no descriptor for certificates";
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    H2O_CHECK(n > 0) << "no memory for certificates";
    text.remove_prefix(static_cast<size_t>(n));
  }
  const timespec changed[2] = {{.tv_sec = version, .tv_nsec = 0},
                               {.tv_sec = version, .tv_nsec = 0}};
  futimens(fd, changed);
  return fd;
}

// Puts another file in the place of `fd` at once.
void ReplaceMemoryFile(int fd, std::string_view text, int64_t version) {
  if (fd < 0) return;
  const int next = NewMemoryFile(text, version);
  H2O_CHECK(dup3(next, fd, O_CLOEXEC) == fd);
  close(next);
}

std::string PathOf(int fd) {
  return fd < 0 ? "" : absl::StrCat("/proc/self/fd/", fd);
}

// One file, so that one is never read without the other.
std::string IdentityOf(const TlsMaterial& material) {
  return absl::StrCat(material.key, "\n", material.chain);
}

}  // namespace

LiveCertificates::LiveCertificates(const TlsMaterial& material)
    : identity_(material.chain.empty()
                    ? -1
                    : NewMemoryFile(IdentityOf(material), version_)),
      roots_(material.roots.empty() ? -1
                                    : NewMemoryFile(material.roots, version_)),
      other_end_must_show_(material.other_end_must_show),
      provider_(
          std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
              PathOf(identity_), PathOf(identity_), PathOf(roots_),
              kLookSeconds)) {}

LiveCertificates::~LiveCertificates() {
  provider_.reset();
  for (const int fd : {identity_, roots_}) {
    if (fd >= 0) close(fd);
  }
}

void LiveCertificates::Replace(const TlsMaterial& material) {
  ++version_;
  ReplaceMemoryFile(identity_, IdentityOf(material), version_);
  ReplaceMemoryFile(roots_, material.roots, version_);
}

}  // namespace h2o
