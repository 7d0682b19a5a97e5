// Matrix products through cuBLASLt, with a choice of its kernels measured on
// the spot.
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
  // Not GELU: that is a kernel of our own, since cuBLASLt has only the
  // approximation by tanh.
  // While `stream` captures, nothing is timed: an unknown shape takes
  // cuBLASLt's first guess, this once.
  absl::Status Run(Matrix x, const StoredMatrix& weight, const void* bias,
                   bool relu, Matrix y, cudaStream_t stream);

  int64_t workspace_bytes() const {
    return static_cast<int64_t>(runtime_.workspace_bytes);
  }

 private:
  explicit LinearProducts(bool searches) : searches_(searches) {}
  absl::Status Keep(const ProductShape& shape, const ProductChoice& choice,
                    bool overrules);

  const bool searches_;
  ProductRuntime runtime_;
  std::string path_;  // of the choices; empty: not kept
  ProductChoices chosen_;
};

}  // namespace h2o::cuda
