// What a linear layer's inputs x are like: H = sum of x x^T over many rows.
// Rounding weights W to W' then costs trace((W - W') H (W - W')^T) in squared
// errors of the outputs.
//
// Threads  one owner; the work is spread over a ThreadPool.  The bits do not
//          depend on the number of threads.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "base/thread_pool.h"
#include "kernels/backend.h"
#include "parallel/shard_spec.h"

namespace h2o {

// Float32 [size, size], of which the upper triangle counts.
class UpperMatrix {
 public:
  UpperMatrix() = default;
  // Zeros.  Errors: RESOURCE_EXHAUSTED naming the size.
  static absl::StatusOr<UpperMatrix> Create(int64_t size);

  int64_t size() const { return size_; }
  float* Row(int64_t r) const { return memory_.As<float>() + r * size_; }

  // Calls fn(rows, columns) for tiles that cover the upper triangle of the
  // first `size` rows and columns, on all threads.
  static void ForEachTile(int64_t size, ThreadPool* pool,
                          absl::FunctionRef<void(Range, Range)> fn);

 private:
  Buffer memory_;
  int64_t size_ = 0;
};

// moments += x^T x.  REQUIRES: x is float32, moments->size() columns.
void AddMoments(Matrix x, UpperMatrix* moments, ThreadPool* pool);

}  // namespace h2o
