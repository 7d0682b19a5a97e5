// Matrix products on a GPU.  Products of few rows, and those with weights of
// codes, run our own kernel (StreamedProduct); the others run the fastest of
// cuBLASLt's kernels.  So do all products of fp8 weights whose inputs are to be
// fp8, too.
//
// The first product of a shape times the kernels that cuBLASLt proposes, on its
// own operands and in its own stream, and keeps the fastest.  Shapes of many
// rows share a choice (ChoiceRows).  Choices are written to a file for each
// kind of GPU and version of cuBLASLt, so that the next process need not
// measure (product_choices.h).  `h2oserve tune` searches more kernels, for
// seconds a shape, and replaces choices that were not searched for
// (product_search.h).
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
#include "kernels/cuda/rounded_rows.h"

namespace h2o::cuda {

class LinearProducts {
 public:
  // `directory` holds the file of choices; empty: there is none.  A file that
  // cannot be read or written is ignored, unless `searches`: then Run returns
  // FAILED_PRECONDITION.
  static absl::StatusOr<std::unique_ptr<LinearProducts>> Create(
      const std::string& directory, bool searches,
      const Fp8Inputs& fp8_inputs = {});
  ~LinearProducts();

  // y = x W^T + bias, then ReLU if `relu`.  x and weights are of one 16-bit
  // type, or weights are codes that Arrange has seen, if takes_codes();
  // y is of that type or float32; a bias is of y's type, null is none.
  // REQUIRES: no kernel still in `stream` writes the weights.  All products of
  // an object run in one stream, because they share memory.
  // With Fp8Inputs, fp8 weights need outputs of a multiple of kFp8OutputStep.
  // Sums are rounded once, but cuBLASLt's kernels may round a second time
  // before they add the bias.  GELU is another kernel, since cuBLASLt has only
  // the approximation by tanh. While `stream` captures a graph, nothing is
  // timed: an unknown shape takes cuBLASLt's first proposal, this once.
  absl::Status Run(Matrix x, const StoredMatrix& weight, const void* bias,
                   bool relu, Matrix y, cudaStream_t stream);

  // Brings codes and scales of a weight that lie in order into the order of
  // products; takes as much memory again meanwhile.  With Fp8Inputs, fp8 codes
  // stay in order.  All of a program's weights
  // come here before its first product.
  absl::Status Arrange(const StoredMatrix& weight, void* codes, void* scales,
                       cudaStream_t stream);

  bool takes_codes() const { return streamed_.shares > 0; }
  int64_t workspace_bytes() const {
    return static_cast<int64_t>(runtime_.workspace_bytes) + streamed_bytes_ +
           whole_bytes_ + rounded_.bytes();
  }

 private:
  explicit LinearProducts(bool searches) : searches_(searches) {}
  // With cuBLASLt.
  absl::Status Multiply(const StoredMatrix& x, const StoredMatrix& weight,
                        const void* bias, bool relu, const Matrix& y,
                        cudaStream_t stream);
  // Room for rows of x that are multiplied with such codes in whole numbers.
  absl::Status MakeRoomToRound(const StoredMatrix& weight);
  absl::Status Keep(const ProductShape& shape, const ProductChoice& choice,
                    bool overrules);

  bool Rounds(const StoredMatrix& weight) const {
    return weight.format == WeightFormat::kFp8 && rounded_.has_room();
  }

  // Makes ready for StreamedProduct, where the device and the build have it.
  absl::Status PrepareStreaming(int multiprocessors);
  bool Streams(const Matrix& x, const Matrix& y) const;
  absl::Status Stream(const Matrix& x, const StoredMatrix& weight,
                      const void* bias, bool relu, const Matrix& y,
                      cudaStream_t stream) const;
  // With codes: parts of the rows, one after the other.
  absl::Status StreamParts(const Matrix& x, const StoredMatrix& weight,
                           const void* bias, bool relu, const Matrix& y,
                           cudaStream_t stream) const;

  const bool searches_;
  StreamedProductWorkspace streamed_;  // no shares: not here
  int64_t streamed_bytes_ = 0;
  void* whole_ = nullptr;  // of streamed_.whole
  int64_t whole_bytes_ = 0;
  RoundedRows rounded_;
  ProductRuntime runtime_;
  std::string path_;  // of the choices; empty: not kept
  ProductChoices chosen_;
};

}  // namespace h2o::cuda
