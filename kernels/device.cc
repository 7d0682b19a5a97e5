// Memory of the host, and uploads in pieces.
#include "kernels/device.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace h2o {

absl::StatusOr<Buffer> Buffer::AllocateHost(int64_t bytes) {
  if (bytes == 0) return Buffer();
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "cannot take ", bytes, " bytes of memory: ", std::strerror(errno)));
  }
  // Weights and pools are read from end to end: huge pages save TLB misses.
  ::madvise(data, bytes, MADV_HUGEPAGE);
  return Buffer(static_cast<std::byte*>(data), bytes,
                [](std::byte* p, int64_t n) { ::munmap(p, n); });
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(release_, other.release_);
  return *this;
}

void Device::Upload(const void* host, int64_t bytes, void* device) {
  for (int64_t at = 0; at < bytes; at += kMaxUploadBytes) {
    const int64_t n = std::min(bytes - at, kMaxUploadBytes);
    UploadFrom(n, static_cast<std::byte*>(device) + at, [&](std::byte* to) {
      std::memcpy(to, static_cast<const std::byte*>(host) + at, n);
    });
  }
}

Buffer::~Buffer() {
  if (data_ != nullptr) release_(data_, bytes_);
}

}  // namespace h2o
