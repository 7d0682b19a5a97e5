// A float32 matrix as a .npy file (NumPy's format 1.0), written row by row.  It
// appears when it is complete.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/new_file.h"

namespace h2o {

class NpyFile {
 public:
  // Errors: NewFile::Create's.
  static absl::StatusOr<NpyFile> Create(const std::string& path, int64_t rows,
                                        int64_t columns);

  void Append(absl::Span<const float> values);
  // Errors: NewFile::Commit's.
  absl::Status Close() { return file_.Commit(); }

 private:
  explicit NpyFile(NewFile file) : file_(std::move(file)) {}

  NewFile file_;
};

}  // namespace h2o
