// Searches for the fastest kernel of a matrix product by timing candidates.
#include "kernels/cuda/product_search.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "kernels/cuda/cuda_status.h"

namespace h2o::cuda {
namespace {

// Guesses that are timed, and how often each, in turn.
constexpr int kGuesses = 48;
constexpr int kTimedRounds = 3, kTimedRuns = 2;

// Where it proposes fewer, as it does for fp8, their tiles are varied, too; but
// not with more rows, where that takes seconds and gains little.
constexpr size_t kFewGuesses = 4;
constexpr int64_t kMostVariedRows = 256;

// A search tries all combinations of the kTiles best tiles and then compares
// kFinalists.  These take turns, each long enough for the GPU's clock to settle
// under its power cap.  The first round only warms the GPU up.
constexpr size_t kTiles = 12;
constexpr int kSearchRuns = 2;
constexpr size_t kFinalists = 8;
constexpr int kFinalRounds = 4;
constexpr float kFinalMs = 100;

// What a combination is made of.
constexpr uint16_t kFirstClusters[] = {CUBLASLT_CLUSTER_SHAPE_1x1x1,
                                       CUBLASLT_CLUSTER_SHAPE_2x1x1,
                                       CUBLASLT_CLUSTER_SHAPE_1x2x1};
constexpr uint16_t kClusters[] = {
    CUBLASLT_CLUSTER_SHAPE_1x1x1, CUBLASLT_CLUSTER_SHAPE_2x1x1,
    CUBLASLT_CLUSTER_SHAPE_4x1x1, CUBLASLT_CLUSTER_SHAPE_1x2x1,
    CUBLASLT_CLUSTER_SHAPE_2x2x1, CUBLASLT_CLUSTER_SHAPE_4x2x1};
constexpr int32_t kSplits[] = {1, 2, 3, 4, 6};

// Weights of fewer bytes may still lie in a cache from the run before, where a
// layer of a model would not find them: memory is written in between, which
// takes all candidates as long.
constexpr int64_t kColdBytes = int64_t{80} << 20;

struct Candidate {
  cublasLtMatmulAlgo_t algo;
  float ms = std::numeric_limits<float>::infinity();  // a run
};

void SortByTime(std::vector<Candidate>* candidates) {
  std::sort(candidates->begin(), candidates->end(),
            [](const Candidate& a, const Candidate& b) { return a.ms < b.ms; });
}

// Leaves one of those that are the same kernel.
void DropCopies(std::vector<Candidate>* candidates) {
  std::vector<Candidate> distinct;
  for (const Candidate& c : *candidates) {
    const bool seen =
        std::any_of(distinct.begin(), distinct.end(), [&](const Candidate& d) {
          return std::memcmp(&c.algo, &d.algo, sizeof(c.algo)) == 0;
        });
    if (!seen) distinct.push_back(c);
  }
  *candidates = std::move(distinct);
}

template <class T>
T Get(const cublasLtMatmulAlgo_t& algo,
      cublasLtMatmulAlgoConfigAttributes_t name) {
  T value = {};
  size_t written = 0;
  cublasLtMatmulAlgoConfigGetAttribute(&algo, name, &value, sizeof(value),
                                       &written);
  return value;
}
template <class T>
void Set(cublasLtMatmulAlgo_t* algo, cublasLtMatmulAlgoConfigAttributes_t name,
         T value) {
  cublasLtMatmulAlgoConfigSetAttribute(algo, name, &value, sizeof(value));
}
int32_t TileOf(const cublasLtMatmulAlgo_t& algo) {
  return Get<int32_t>(algo, CUBLASLT_ALGO_CONFIG_TILE_ID);
}
int32_t IdOf(const cublasLtMatmulAlgo_t& algo) {
  return Get<int32_t>(algo, CUBLASLT_ALGO_CONFIG_ID);
}

int32_t MostOf(const cublasLtMatmulAlgo_t& algo,
               cublasLtMatmulAlgoCapAttributes_t name) {
  int32_t value = 0;
  size_t written = 0;
  cublasLtMatmulAlgoCapGetAttribute(&algo, name, &value, sizeof(value),
                                    &written);
  return value;
}
std::vector<int32_t> TilesOf(const cublasLtMatmulAlgo_t& algo) {
  size_t bytes = 0;
  cublasLtMatmulAlgoCapGetAttribute(&algo, CUBLASLT_ALGO_CAP_TILE_IDS, nullptr,
                                    0, &bytes);
  std::vector<int32_t> tiles(bytes / sizeof(int32_t));
  if (bytes > 0) {
    cublasLtMatmulAlgoCapGetAttribute(&algo, CUBLASLT_ALGO_CAP_TILE_IDS,
                                      tiles.data(), bytes, &bytes);
  }
  return tiles;
}

// Parts of a split sum stay float32 until they are added: in 16 bits each
// would be rounded.
constexpr uint32_t kParts = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

class Search {
 public:
  Search(const ProductProblem& problem, const ProductRuntime& runtime,
         cudaStream_t stream)
      : problem_(problem), runtime_(runtime), stream_(stream) {}

  absl::StatusOr<std::vector<Candidate>> Guess();
  // Sorts by time; those that do not run go.
  absl::Status Time(int runs, std::vector<Candidate>* candidates);
  // Adds to few guesses the same kernels with other tiles.
  void Widen(std::vector<Candidate>* guesses) const;
  // Replaces the timed guesses by their fastest variants.  Compare then sorts
  // these by longer measurements.
  absl::Status Vary(std::vector<Candidate>* guesses);
  absl::Status Compare(std::vector<Candidate>* finalists);

 private:
  bool Exists(const cublasLtMatmulAlgo_t& algo) const;
  std::vector<Candidate> TileVariants(const Candidate& guess) const;
  std::vector<Candidate> Combinations(const Candidate& of_tile) const;
  // Infinite: it does not run.  Errors: the device's.
  absl::StatusOr<float> MillisecondsOf(const cublasLtMatmulAlgo_t& algo,
                                       int runs) const;

  const ProductProblem& problem_;
  const ProductRuntime& runtime_;
  const cudaStream_t stream_;
};

absl::StatusOr<std::vector<Candidate>> Search::Guess() {
  cublasLtMatmulPreference_t preference = nullptr;
  H2O_RETURN_IF_ERROR(
      ToStatus(cublasLtMatmulPreferenceCreate(&preference), "preference"));
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t name,
                          const auto& value) {
    cublasLtMatmulPreferenceSetAttribute(preference, name, &value,
                                         sizeof(value));
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, runtime_.workspace_bytes);
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, kParts);
  std::vector<cublasLtMatmulHeuristicResult_t> found(kGuesses);
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      runtime_.handle, problem_.operation(), problem_.a(), problem_.b(),
      problem_.d(), problem_.d(), preference, kGuesses, found.data(), &count);
  cublasLtMatmulPreferenceDestroy(preference);
  H2O_RETURN_IF_ERROR(ToStatus(status, "heuristic"));
  if (count == 0) return absl::InternalError("cuBLAS knows no such product");
  std::vector<Candidate> guesses;
  for (int i = 0; i < count; ++i) guesses.push_back({found[i].algo});
  return guesses;
}

bool Search::Exists(const cublasLtMatmulAlgo_t& algo) const {
  cublasLtMatmulHeuristicResult_t result = {};
  return cublasLtMatmulAlgoCheck(runtime_.handle, problem_.operation(),
                                 problem_.a(), problem_.b(), problem_.d(),
                                 problem_.d(), &algo,
                                 &result) == CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= runtime_.workspace_bytes;
}

std::vector<Candidate> Search::TileVariants(const Candidate& guess) const {
  std::vector<Candidate> variants;
  for (int32_t tile : TilesOf(guess.algo)) {
    for (uint16_t cluster : kFirstClusters) {
      Candidate variant = {guess.algo};
      Set(&variant.algo, CUBLASLT_ALGO_CONFIG_TILE_ID, tile);
      Set(&variant.algo, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, cluster);
      if (Exists(variant.algo)) variants.push_back(variant);
    }
  }
  return variants;
}

std::vector<Candidate> Search::Combinations(const Candidate& of_tile) const {
  const int32_t options =
      MostOf(of_tile.algo, CUBLASLT_ALGO_CAP_CUSTOM_OPTION_MAX);
  const bool splits = MostOf(of_tile.algo, CUBLASLT_ALGO_CAP_SPLITK_SUPPORT);
  std::vector<Candidate> combinations;
  for (uint16_t cluster : kClusters) {
    for (int32_t option = 0; option <= options; ++option) {
      for (int32_t split : kSplits) {
        if (split > 1 && !splits) break;
        Candidate c = {of_tile.algo};
        Set(&c.algo, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, cluster);
        Set(&c.algo, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, option);
        Set(&c.algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, split);
        Set(&c.algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
            split > 1 ? kParts : uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE});
        if (Exists(c.algo)) combinations.push_back(c);
      }
    }
  }
  return combinations;
}

absl::StatusOr<float> Search::MillisecondsOf(const cublasLtMatmulAlgo_t& algo,
                                             int runs) const {
  // The first run may load the kernel.
  if (problem_.Run(runtime_, algo, stream_) != CUBLAS_STATUS_SUCCESS) {
    return std::numeric_limits<float>::infinity();
  }
  cudaEventRecord(runtime_.begin, stream_);
  for (int run = 0; run < runs; ++run) {
    if (problem_.weight_bytes() < kColdBytes) {
      cudaMemsetAsync(runtime_.workspace, 0, runtime_.workspace_bytes, stream_);
    }
    problem_.Run(runtime_, algo, stream_);
  }
  cudaEventRecord(runtime_.end, stream_);
  H2O_RETURN_IF_ERROR(
      ToStatus(cudaEventSynchronize(runtime_.end), "a product's kernel"));
  float ms = 0;
  cudaEventElapsedTime(&ms, runtime_.begin, runtime_.end);
  return ms / static_cast<float>(runs);
}

absl::Status Search::Time(int runs, std::vector<Candidate>* candidates) {
  for (Candidate& c : *candidates) {
    H2O_ASSIGN_OR_RETURN(const float ms, MillisecondsOf(c.algo, runs));
    c.ms = std::min(c.ms, ms);
  }
  std::erase_if(*candidates, [](const Candidate& c) {
    return c.ms == std::numeric_limits<float>::infinity();
  });
  if (candidates->empty()) {
    return absl::InternalError("none of cuBLAS's kernels runs this product");
  }
  SortByTime(candidates);
  return absl::OkStatus();
}

void Search::Widen(std::vector<Candidate>* guesses) const {
  const size_t count = guesses->size();
  if (count >= kFewGuesses || problem_.rows() > kMostVariedRows) return;
  for (size_t i = 0; i < count; ++i) {
    const std::vector<Candidate> variants = TileVariants((*guesses)[i]);
    guesses->insert(guesses->end(), variants.begin(), variants.end());
  }
  DropCopies(guesses);
}

absl::Status Search::Vary(std::vector<Candidate>* guesses) {
  std::vector<Candidate> tiles = *guesses;
  std::set<int32_t> ids;
  for (const Candidate& guess : *guesses) {
    if (!ids.insert(IdOf(guess.algo)).second) continue;
    const std::vector<Candidate> variants = TileVariants(guess);
    tiles.insert(tiles.end(), variants.begin(), variants.end());
  }
  H2O_RETURN_IF_ERROR(Time(kSearchRuns, &tiles));

  std::vector<Candidate> finalists = *guesses;
  std::set<int32_t> varied;
  for (const Candidate& of_tile : tiles) {
    if (varied.size() == kTiles) break;
    if (!varied.insert(TileOf(of_tile.algo)).second) continue;
    std::vector<Candidate> combinations = Combinations(of_tile);
    combinations.push_back(of_tile);
    H2O_RETURN_IF_ERROR(Time(kSearchRuns, &combinations));
    combinations.resize(std::min(combinations.size(), kFinalists));
    finalists.insert(finalists.end(), combinations.begin(), combinations.end());
  }
  SortByTime(&finalists);
  DropCopies(&finalists);
  finalists.resize(std::min(finalists.size(), kFinalists));
  *guesses = std::move(finalists);
  return absl::OkStatus();
}

absl::Status Search::Compare(std::vector<Candidate>* finalists) {
  const int runs =
      std::max(kTimedRuns, static_cast<int>(kFinalMs / finalists->front().ms));
  std::vector<float> sums(finalists->size(), 0);
  for (int round = 0; round < kFinalRounds; ++round) {
    for (size_t i = 0; i < sums.size(); ++i) {
      H2O_ASSIGN_OR_RETURN(const float ms,
                           MillisecondsOf((*finalists)[i].algo, runs));
      if (round > 0) sums[i] += ms;
    }
  }
  for (size_t i = 0; i < sums.size(); ++i) (*finalists)[i].ms = sums[i];
  SortByTime(finalists);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<cublasLtMatmulAlgo_t> ChooseProductAlgo(
    const ProductProblem& problem, SearchEffort effort,
    const ProductRuntime& runtime, cudaStream_t stream) {
  Search search(problem, runtime, stream);
  H2O_ASSIGN_OR_RETURN(std::vector<Candidate> candidates, search.Guess());
  if (effort == SearchEffort::kGuess) return candidates[0].algo;
  search.Widen(&candidates);
  for (int round = 0; round < kTimedRounds; ++round) {
    H2O_RETURN_IF_ERROR(search.Time(kTimedRuns, &candidates));
  }
  if (effort == SearchEffort::kSearch) {
    H2O_RETURN_IF_ERROR(search.Vary(&candidates));
    H2O_RETURN_IF_ERROR(search.Compare(&candidates));
  }
  return candidates[0].algo;
}

}  // namespace h2o::cuda
