// A float32 matrix as a .npy file (NumPy's format 1.0), written row by row.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace h2o {

class NpyFile {
 public:
  // Errors: PERMISSION_DENIED naming a path that cannot be written.
  static absl::StatusOr<NpyFile> Create(const std::string& path, int64_t rows,
                                        int64_t columns);
  NpyFile(NpyFile&& other) noexcept;
  NpyFile& operator=(NpyFile&&) = delete;
  ~NpyFile();

  void Append(absl::Span<const float> values);
  // Errors: DATA_LOSS if anything could not be written (a full disk).
  absl::Status Close();

 private:
  NpyFile(std::FILE* file, std::string path)
      : file_(file), path_(std::move(path)) {}

  std::FILE* file_;
  std::string path_;
};

}  // namespace h2o
