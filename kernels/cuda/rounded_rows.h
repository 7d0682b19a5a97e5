// Where inputs of products with fp8 weights are rounded to e4m3, one scale a
// row (base/fp8_rows.h).
//
// Threads  one owner.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace h2o::cuda {

// The most inputs that are to be rounded; 0 rows: they stay as they are.
struct Fp8Inputs {
  int64_t rows = 0, columns = 0;
};

class RoundedRows {
 public:
  RoundedRows() = default;
  ~RoundedRows();
  RoundedRows(const RoundedRows&) = delete;

  absl::Status MakeRoom(const Fp8Inputs& most);

  bool has_room() const { return most_.rows > 0; }
  int64_t bytes() const { return bytes_; }

  // Codes of x, rows `stride` apart, and their scales; until the next call.
  absl::StatusOr<StoredMatrix> Round(const Matrix& x, int64_t stride,
                                     cudaStream_t stream) const;

 private:
  Fp8Inputs most_;
  void* memory_ = nullptr;  // scales of the rows, and behind them codes
  int64_t bytes_ = 0;
};

}  // namespace h2o::cuda
