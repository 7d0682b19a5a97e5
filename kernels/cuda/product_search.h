// Finds the fastest of cuBLASLt's kernels for a product by measuring.
//
// cuBLASLt proposes a few kernels (heuristics).  The best of them is within a
// few percent of its fastest kernel, and a model's layers are worth these
// percent.  Tile, cluster, split of the inputs and an option without a name
// make hundreds of thousands of combinations; a few thousand of them are
// kernels.
#pragma once

#include <cublasLt.h>

#include "absl/status/statusor.h"
#include "kernels/cuda/product_problem.h"

namespace h2o::cuda {

enum class SearchEffort {
  kGuess,   // cuBLASLt's first proposal, without timing
  kQuick,   // all its proposals, each timed: some milliseconds
  kSearch,  // all tiles, then all combinations of the best tiles: seconds
};

// Runs the product, on its own operands and in `stream`; nothing is timed by
// kGuess.  Errors: INTERNAL.
absl::StatusOr<cublasLtMatmulAlgo_t> ChooseProductAlgo(
    const ProductProblem& problem, SearchEffort effort,
    const ProductRuntime& runtime, cudaStream_t stream);

}  // namespace h2o::cuda
