// Rounds inputs of products in memory that is taken once.
#include "kernels/cuda/rounded_rows.h"

#include "base/check.h"
#include "base/status_macros.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/kernels.h"

namespace h2o::cuda {
namespace {

int64_t ScaleBytes(int64_t rows) {
  return CeilDiv(rows * int64_t{sizeof(float)}, 256) * 256;
}

}  // namespace

RoundedRows::~RoundedRows() { cudaFree(memory_); }

absl::Status RoundedRows::MakeRoom(const Fp8Inputs& most) {
  if (most.rows == 0) return absl::OkStatus();
  const int64_t bytes =
      ScaleBytes(most.rows) +
      most.rows * WeightStride(WeightFormat::kFp8, most.columns);
  H2O_RETURN_IF_ERROR(
      ToStatus(cudaMalloc(&memory_, bytes), "room to round inputs"));
  most_ = most;
  bytes_ = bytes;
  return absl::OkStatus();
}

absl::StatusOr<StoredMatrix> RoundedRows::Round(const Matrix& x, int64_t stride,
                                                cudaStream_t stream) const {
  H2O_CHECK(x.rows <= most_.rows) << x.rows;
  H2O_CHECK(x.columns <= most_.columns) << x.columns;
  RoundRowsArgs args;
  args.x = x.data;
  args.x_stride = x.stride;
  args.rows = static_cast<int>(x.rows);
  args.columns = x.columns;
  args.dtype = x.dtype;
  args.scales = static_cast<float*>(memory_);
  args.codes = static_cast<uint8_t*>(memory_) + ScaleBytes(most_.rows);
  args.stride = stride;
  H2O_RETURN_IF_ERROR(ToStatus(RoundRows(args, stream), "rounded inputs"));
  StoredMatrix rounded = {args.codes, WeightFormat::kFp8, x.rows, x.columns,
                          stride};
  rounded.scales = args.scales;
  return rounded;
}

}  // namespace h2o::cuda
