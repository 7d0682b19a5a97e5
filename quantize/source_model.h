// The checkpoint that is quantised, and what of it becomes codes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/weight_format.h"
#include "model/family.h"
#include "model/model_config.h"
#include "model/safetensors.h"
#include "model/weight_map.h"

namespace h2o {

struct SourceModel {
  std::string directory;
  ModelConfig config;
  const Family* family = nullptr;
  std::unique_ptr<const Checkpoint> checkpoint;
  WeightMap map;  // of one rank that has all
};

// Errors: those of ReadModelConfig, Checkpoint::Open and MapCheckpoint;
// FAILED_PRECONDITION for a checkpoint of codes; those of CheckCoded, and
// INVALID_ARGUMENT naming a weight whose inputs are no whole groups.
absl::StatusOr<SourceModel> OpenSourceModel(const std::string& directory,
                                            const WeightCoding& coding);

// The products of a layer, in the order in which text goes through them.
enum class LayerProduct { kQkv, kOut, kFc1, kFc2 };
inline constexpr LayerProduct kLayerProducts[] = {
    LayerProduct::kQkv, LayerProduct::kOut, LayerProduct::kFc1,
    LayerProduct::kFc2};

// Its weights, stacked on each other.
const Slices& WeightsOf(const LayerMap& layer, LayerProduct product);

}  // namespace h2o
