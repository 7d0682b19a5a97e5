// Writes .npy files: a header, then rows.
#include "clients/npy_file.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace h2o {

absl::StatusOr<NpyFile> NpyFile::Create(const std::string& path, int64_t rows,
                                        int64_t columns) {
  std::FILE* file = std::fopen(path.c_str(), "we");
  if (file == nullptr) {
    return absl::PermissionDeniedError(
        absl::StrCat("cannot write ", path, ": ", std::strerror(errno)));
  }
  // Magic, version 1.0, the header's length in two bytes, the header; the data
  // begins at a multiple of 64.
  std::string header =
      absl::StrCat("{'descr': '<f4', 'fortran_order': False, 'shape': (", rows,
                   ", ", columns, "), }");
  const size_t before = 10;
  header.append(63 - (before + header.size()) % 64, ' ');
  header += '\n';
  const char preamble[before] = {'\x93',
                                 'N',
                                 'U',
                                 'M',
                                 'P',
                                 'Y',
                                 1,
                                 0,
                                 static_cast<char>(header.size() & 0xff),
                                 static_cast<char>(header.size() >> 8)};
  std::fwrite(preamble, 1, before, file);
  std::fwrite(header.data(), 1, header.size(), file);
  return NpyFile(file, path);
}

NpyFile::NpyFile(NpyFile&& other) noexcept
    : file_(std::exchange(other.file_, nullptr)),
      path_(std::move(other.path_)) {}

NpyFile::~NpyFile() {
  if (file_ != nullptr) std::fclose(file_);
}

void NpyFile::Append(absl::Span<const float> values) {
  std::fwrite(values.data(), sizeof(float), values.size(), file_);
}

absl::Status NpyFile::Close() {
  const bool failed = std::ferror(file_) != 0;
  if (std::fclose(std::exchange(file_, nullptr)) != 0 || failed) {
    return absl::DataLossError(
        absl::StrCat(path_, " is incomplete: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

}  // namespace h2o
