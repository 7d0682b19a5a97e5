// Matrix products: of few rows by a kernel of our own (StreamedProduct), else
// through cuBLASLt, with a choice of its kernels measured on the spot.
//
// The first product of a shape times cuBLASLt's guesses, on its own operands
// and in its own stream, and keeps the fastest; shapes of many rows share a
// choice (ChoiceRows).  Choices are kept in a file, one a kind of GPU and
// version of cuBLASLt, so that the next process makes none (product_choices.h).
// One that searches, for `h2oserve tune`, takes seconds a shape and overrules
// what was not searched for (product_search.h).
//
// Threads  one owner.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/product_choices.h"
#include "kernels/cuda/product_problem.h"

namespace h2o::cuda {

class LinearProducts {
 public:
  // `directory`: of the file of choices; empty: none is kept.  A file that
  // cannot be read or written is done without, but for who searches: then Run
  // says FAILED_PRECONDITION.
  static absl::StatusOr<std::unique_ptr<LinearProducts>> Create(
      const std::string& directory, bool searches);
  ~LinearProducts();

  // y = x W^T, plus bias, and ReLU of that, as asked.  x and weights of one
  // 16-bit type; y of that type or float32; the bias, null: none, of y's type.
  // The weights must not be what a kernel in front writes.  All products of an
  // object are of one stream, since they share memory.  Sums are rounded
  // once, but cuBLASLt's kernels may do so before they add the bias, too.
  // Not GELU: that is a kernel of our own, since cuBLASLt has only the
  // approximation by tanh.
  // While `stream` captures, nothing is timed: an unknown shape takes
  // cuBLASLt's first guess, this once.
  absl::Status Run(Matrix x, const StoredMatrix& weight, const void* bias,
                   bool relu, Matrix y, cudaStream_t stream);

  int64_t workspace_bytes() const {
    return static_cast<int64_t>(runtime_.workspace_bytes) + streamed_bytes_;
  }

 private:
  explicit LinearProducts(bool searches) : searches_(searches) {}
  absl::Status Keep(const ProductShape& shape, const ProductChoice& choice,
                    bool overrules);

  // Makes ready for StreamedProduct, where the device and the build have it.
  absl::Status PrepareStreaming(int multiprocessors);
  bool Streams(const Matrix& x, const Matrix& y) const;
  absl::Status Stream(const Matrix& x, const StoredMatrix& weight,
                      const void* bias, bool relu, const Matrix& y,
                      cudaStream_t stream) const;

  const bool searches_;
  StreamedProductWorkspace streamed_;  // no shares: not here
  int64_t streamed_bytes_ = 0;
  ProductRuntime runtime_;
  std::string path_;  // of the choices; empty: not kept
  ProductChoices chosen_;
};

}  // namespace h2o::cuda
