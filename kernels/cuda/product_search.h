// Which of cuBLASLt's kernels a product should take, found by measuring.
//
// cuBLASLt guesses a few.  Its guesses are good to a few percent of the best
// kernel it has, which for a model's layer is worth looking for: tile, cluster,
// split of the inputs and an option without a name make some hundreds of
// thousands of combinations, of which a few thousand are kernels.
#pragma once

#include <cublasLt.h>

#include "absl/status/statusor.h"
#include "kernels/cuda/product_problem.h"

namespace h2o::cuda {

enum class SearchEffort {
  kGuess,   // cuBLASLt's first guess: no time is taken
  kQuick,   // its guesses, each timed: milliseconds
  kSearch,  // all tiles, then all of the best tiles' combinations: seconds
};

// Runs the product, on its own operands and in `stream`; nothing is timed by
// kGuess.  Errors: INTERNAL.
absl::StatusOr<cublasLtMatmulAlgo_t> ChooseProductAlgo(
    const ProductProblem& problem, SearchEffort effort,
    const ProductRuntime& runtime, cudaStream_t stream);

}  // namespace h2o::cuda
